// Package loadreport reads what endpoints say in their responses about how busy
// they are, and weighs them by it: gRFC A51 and A58, Envoy's ORCA.
package loadreport

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/headgate/headgate/dataplane/exchange"
)

// The header fields of load reports.
const (
	field    = "Endpoint-Load-Metrics"
	fieldBin = "Endpoint-Load-Metrics-Bin"
)

// expires is for how long a report holds, as in gRFC A58.
const expires = 3 * time.Minute

// Report is what an endpoint last reported. The zero value is none. It is safe for
// concurrent use.
type Report struct {
	// bits are the weight that follows, a float64; 0 if there is none.
	bits atomic.Uint64
	at   atomic.Int64
}

// Weight is the endpoint's weight by its last report: the requests a second that it
// can serve, 0 if there is none or it is older than 3 minutes. now is in
// nanoseconds, on the clock that Read goes by.
func (r *Report) Weight(now int64) float64 {
	bits := r.bits.Load()
	if bits == 0 || now-r.at.Load() > int64(expires) {
		return 0
	}
	return math.Float64frombits(bits)
}

// Read takes a report out of a response. Clients are not told how busy
// endpoints are. A report that cannot be read is none.
func (r *Report) Read(response *exchange.Response, now int64) {
	var l load
	ok := false
	if value, there := response.Fields.Get(field); there {
		ok = l.readText(value)
		response.Fields.Del(field)
	}
	if value, there := response.Fields.Get(fieldBin); there {
		ok = l.readBase64(value) || ok
		response.Fields.Del(fieldBin)
	}
	if !ok {
		return
	}
	if w := l.weight(); w > 0 {
		r.bits.Store(math.Float64bits(w))
		r.at.Store(now)
	}
}

// load is a part of xds.data.orca.v3.OrcaLoadReport.
type load struct {
	cpu, application float64 // shares of what there is; above 1 is overloaded
	rps, eps         float64 // requests and errors a second
}

// weight is how many requests a second the endpoint can serve, gRFC A58: what it
// serves, divided by how busy it is with that. Errors count as work.
func (l *load) weight() float64 {
	busy := l.application
	if busy <= 0 {
		busy = l.cpu
	}
	if l.rps <= 0 || busy <= 0 {
		return 0
	}
	w := l.rps / (busy + max(0, l.eps)/l.rps)
	if math.IsInf(w, 0) || math.IsNaN(w) {
		return 0
	}
	return w
}

func (l *load) set(name string, value float64) {
	switch name {
	case "cpu_utilization":
		l.cpu = value
	case "application_utilization":
		l.application = value
	case "rps_fractional":
		l.rps = value
	case "eps":
		l.eps = value
	}
}

// readText reads "TEXT name=value, …", "JSON {…}" or "BIN base64".
func (l *load) readText(s string) bool {
	format, rest, _ := strings.Cut(s, " ")
	switch format {
	case "TEXT":
		return l.readPairs(rest, '=')
	case "JSON":
		// What is of interest are the members of the outer object: numbers. Members of
		// inner ones are other metrics, whose names may be anything.
		rest = strings.TrimSpace(rest)
		if !strings.HasPrefix(rest, "{") || !strings.HasSuffix(rest, "}") {
			return false
		}
		for rest = rest[1 : len(rest)-1]; ; {
			open := strings.IndexByte(rest, '{')
			if open < 0 {
				return l.readPairs(rest, ':')
			}
			end := strings.IndexByte(rest[open:], '}')
			if end < 0 || !l.readPairs(rest[:strings.LastIndexByte(rest[:open], ',')+1], ':') {
				return false
			}
			rest = strings.TrimLeft(rest[open+end+1:], ", \t")
		}
	case "BIN":
		return l.readBase64(rest)
	}
	return false
}

// readPairs reads names and numbers between commas.
func (l *load) readPairs(s string, separator byte) bool {
	for s != "" {
		var pair string
		pair, s, _ = strings.Cut(s, ",")
		if pair = strings.Trim(pair, " \t"); pair == "" {
			continue
		}
		i := strings.IndexByte(pair, separator)
		if i < 0 {
			return false
		}
		name := strings.Trim(pair[:i], " \t\"")
		value, err := strconv.ParseFloat(strings.Trim(pair[i+1:], " \t"), 64)
		if err != nil {
			return false
		}
		l.set(name, value)
	}
	return true
}

// maxReport bounds a report in binary, in bytes.
const maxReport = 1024

// readBase64 reads a message in the protobuf encoding.
func (l *load) readBase64(s string) bool {
	encoding := base64.RawStdEncoding
	s = strings.TrimRight(s, "=")
	var buf [maxReport]byte
	if encoding.DecodedLen(len(s)) > len(buf) {
		return false
	}
	n, err := encoding.Decode(buf[:], []byte(s))
	if err != nil {
		return false
	}
	for b := buf[:n]; len(b) > 0; {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		if kind != protowire.Fixed64Type {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return false
			}
			b = b[n:]
			continue
		}
		bits, n := protowire.ConsumeFixed64(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch value := math.Float64frombits(bits); number {
		case 1:
			l.cpu = value
		case 6:
			l.rps = value
		case 7:
			l.eps = value
		case 9:
			l.application = value
		}
	}
	return true
}
