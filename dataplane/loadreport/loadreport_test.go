package loadreport

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/dataplane/exchange"
)

// report encodes fields of an OrcaLoadReport.
func report(fields map[int]float64) string {
	var b []byte
	b = protowire.AppendTag(b, 4, protowire.BytesType) // request_cost, a map
	b = protowire.AppendBytes(b, []byte("\x0a\x01x\x11\x00\x00\x00\x00\x00\x00\x00\x00"))
	for number, v := range fields {
		b = protowire.AppendTag(b, protowire.Number(number), protowire.Fixed64Type)
		b = protowire.AppendFixed64(b, math.Float64bits(v))
	}
	return base64.StdEncoding.EncodeToString(b)
}

func TestReport(t *testing.T) {
	for _, tc := range []struct {
		name, value string
		weight      float64 // 0 if it is no report
	}{
		{field, "TEXT cpu_utilization=0.5,rps_fractional=100", 200},
		{field, "TEXT cpu_utilization=0.5, application_utilization=0.8, rps_fractional=100,eps=20,named_metrics.x=1", 100},
		{field, `JSON {"cpu_utilization": 0.5, "rps_fractional": 100}`, 200},
		{field, `JSON {"named_metrics": {"cpu_utilization": 9, "b": 2}, "cpu_utilization":0.5,"utilization":{"q":1},"rps_fractional":1e2,"request_cost":{}}`, 200},
		{field, "BIN " + report(map[int]float64{1: .5, 6: 100}), 200},
		{fieldBin, report(map[int]float64{1: .5, 9: .8, 6: 100, 7: 20, 2: 1}), 100},
		{fieldBin, strings.TrimRight(report(map[int]float64{1: .5, 6: 100}), "="), 200},
		{"endpoint-load-metrics", "TEXT cpu_utilization=0.5,rps_fractional=100", 200},
		{field, "TEXT cpu_utilization=0.5", 0}, // of how many requests?
		{field, "TEXT rps_fractional=100", 0},
		{field, "TEXT cpu_utilization=-1,rps_fractional=100", 0},
		{field, "TEXT cpu_utilization=NaN,rps_fractional=100", 0},
		{field, "TEXT cpu_utilization=0.5,rps_fractional=Inf", 0},
		{field, "TEXT cpu_utilization=half,rps_fractional=100", 0},
		{field, "TEXT cpu_utilization", 0},
		{field, `JSON {"cpu_utilization": 0.5`, 0},
		{field, `JSON {"a": {"cpu_utilization": 0.5, "rps_fractional": 100}`, 0},
		{field, "XML <a/>", 0},
		{field, "", 0},
		{fieldBin, "%%%", 0},
		{fieldBin, "CQ", 0},
		{fieldBin, strings.Repeat("A", 4000), 0},
	} {
		var response exchange.Response
		response.Fields = append(response.Fields, exchange.NewField("A", "b"), exchange.NewField(tc.name, tc.value))
		var r Report
		r.Read(&response, 1)
		if got := r.Weight(2); math.Abs(got-tc.weight) > 1e-6 {
			t.Errorf("%s: %s has the weight %f, want %f", tc.name, tc.value, got, tc.weight)
		}
		if len(response.Fields) != 1 {
			t.Errorf("%s: the client is told %v", tc.name, response.Fields)
		}
		if r.Weight(1+int64(expires)+1) != 0 {
			t.Errorf("%s: it holds forever", tc.name)
		}
	}
}

func FuzzReport(f *testing.F) {
	f.Add("TEXT cpu_utilization=0.5,rps_fractional=100", report(map[int]float64{1: .5}))
	f.Add(`JSON {"a": {"b": 1}, "eps":1}`, "CQ")
	f.Add("BIN "+report(map[int]float64{6: 1}), "")
	f.Fuzz(func(t *testing.T, text, binary string) {
		var response exchange.Response
		response.Fields = append(response.Fields, exchange.NewField(field, text), exchange.NewField(fieldBin, binary))
		var r Report
		r.Read(&response, 1)
		if w := r.Weight(1); w < 0 || math.IsNaN(w) || math.IsInf(w, 0) {
			t.Errorf("the weight is %f", w)
		}
	})
}
