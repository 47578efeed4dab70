package extauth

import (
	"encoding/binary"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/query"
)

// The statuses of a call, gRPC's doc/statuscodes.md, that are an answer: a server
// that denies this way says no more. All others are failures.
const (
	grpcOK               = "0"
	grpcPermissionDenied = "7"
	grpcUnauthenticated  = "16"
)

// check makes the question a call of Authorization/Check, gRPC over HTTP/2.
func (f *filter) check(c *call, ex *exchange.Exchange, content []byte) {
	to := &c.ex.Out
	to.Method, to.Scheme, to.Authority, to.Proto = "POST", "http", f.Authority, exchange.HTTP2
	to.Host, to.Path = f.Authority, "/envoy.service.auth.v3.Authorization/Check"
	to.Fields = append(to.Fields,
		exchange.Field{Key: exchange.KeyContentType, Name: "Content-Type", Value: "application/grpc"},
		exchange.Field{Name: "Grpc-Timeout", Value: f.grpcTimeout})
	// A message is preceded by whether it is compressed, and its length.
	e := encoder{append(c.message[:0], 0, 0, 0, 0, 0)}
	e.checkRequest(ex, f.RequestHeaders, content, f.MaxBody > 0)
	binary.BigEndian.PutUint32(e.b[1:], uint32(len(e.b)-5))
	c.message = e.b
	c.holds(c.message)
}

// obey acts on the answer.
func (f *filter) obey(c *call, ex *exchange.Exchange) (verdict, error) {
	r := &c.ex.Response
	if r.Status != 200 {
		return failed, errUnavailable
	}
	switch r.GRPCStatus() {
	case grpcOK:
	case grpcPermissionDenied, grpcUnauthenticated:
		deny(ex, 403, nil)
		return denied, nil
	default:
		return failed, errUnavailable
	}
	b := c.answer
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return failed, errMalformed
	}
	answer, err := readCheckResponse(b[5:])
	if err != nil {
		return failed, errMalformed
	}
	switch {
	case answer.kind == errorResponse:
		return failed, errUnavailable
	case answer.code == 0 && (answer.kind == okResponse || answer.kind == noResponse && answer.status):
		if err := allow(ex, answer.response); err != nil {
			return failed, errMalformed
		}
		return allowed, nil
	case answer.code == 0 && answer.kind == noResponse:
		// An empty message, which the protocol reads as a yes, is too easily
		// made by mistake.
		return failed, errMalformed
	}
	refusal, err := readDenied(answer.response, answer.kind == deniedResponse)
	if err != nil {
		return failed, errMalformed
	}
	deny(ex, refusal.status, refusal.body)
	typed := false
	err = eachHeader(refusal.response, deniedHeaders, func(h header) error {
		typed = typed || exchange.EqualFold(string(h.name), "content-type")
		ex.Response.Fields.Add(ex.Arena.Bytes(h.name), ex.Arena.Bytes(h.value))
		return nil
	})
	if err != nil {
		return failed, errMalformed
	}
	if !typed && len(refusal.body) > 0 {
		ex.Response.Fields = append(ex.Response.Fields,
			exchange.Field{Key: exchange.KeyContentType, Name: "Content-Type", Value: "text/plain; charset=utf-8"})
	}
	return denied, nil
}

// allow makes the changes of an OkHttpResponse.
func allow(ex *exchange.Exchange, response []byte) error {
	err := eachHeader(response, okHeaders, func(h header) error {
		ex.Out.Fields.Apply(&exchange.Edit{
			Name: ex.Arena.Bytes(h.name), Value: ex.Arena.Bytes(h.value), Action: h.requestAction()})
		return nil
	})
	if err != nil {
		return err
	}
	err = eachHeader(response, okResponseHeaders, func(h header) error {
		ex.ResponseEdits = append(ex.ResponseEdits, exchange.Edit{
			Name: ex.Arena.Bytes(h.name), Value: ex.Arena.Bytes(h.value), Action: h.responseAction()})
		return nil
	})
	if err != nil {
		return err
	}
	before := ex.Out.Query
	err = each(response, func(number int, value []byte) error {
		switch number {
		case okHeadersToRemove:
			ex.Out.Fields.Del(ex.Arena.Bytes(value))
		case okQueryToSet:
			key, value, err := readPair(value)
			if err != nil {
				return err
			}
			ex.Out.Query = query.Set(&ex.Arena, ex.Out.Query, ex.Arena.Bytes(key), ex.Arena.Bytes(value))
		case okQueryToRemove:
			ex.Out.Query = query.Remove(&ex.Arena, ex.Out.Query, ex.Arena.Bytes(value))
		}
		return nil
	})
	ex.Out.HasQuery = ex.Out.Query != "" || ex.Out.HasQuery && before == ""
	return err
}
