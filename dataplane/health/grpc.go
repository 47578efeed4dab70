package health

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/snapshot"
)

// askGRPC calls grpc.health.v1.Health/Check, as gRPC's doc/health-checking.md
// has it: SERVING alone is healthy. A server that does not have the service
// answers NOT_FOUND, one that knows nothing of health UNIMPLEMENTED.
func (c *Conn) askGRPC(authority string, q *snapshot.GRPCHealthCheck) error {
	ex := request("POST", authority)
	out := &ex.Out
	out.Path = "/grpc.health.v1.Health/Check"
	out.Fields = append(out.Fields,
		exchange.Field{Key: exchange.KeyContentType, Name: "Content-Type", Value: "application/grpc"})
	message := appendHealthRequest(nil, q.Service)
	out.Body, out.Length = &content{message}, int64(len(message))
	return c.tripHTTP2(ex, func() error {
		r := &ex.Response
		if r.Status != 200 {
			return fmt.Errorf("status %d", r.Status)
		}
		answer, err := readAll(r.Body)
		if err != nil {
			return err
		}
		if code := r.GRPCStatus(); code != "0" {
			return grpcError(r, code)
		}
		serving, err := readHealthResponse(answer)
		switch {
		case err != nil:
			return err
		case serving != 1:
			return servingStatus(serving)
		}
		return nil
	})
}

// grpcError tells of a call that failed, gRPC's doc/statuscodes.md.
func grpcError(r *exchange.Response, code string) error {
	message, _ := r.Trailers.Get("grpc-message")
	if message == "" {
		message, _ = r.Fields.Get("grpc-message")
	}
	switch code {
	case "":
		return errors.New("an answer without grpc-status")
	case "5":
		code += " NOT_FOUND"
	case "12":
		code += " UNIMPLEMENTED"
	}
	if message == "" {
		return fmt.Errorf("grpc-status %s", code)
	}
	return fmt.Errorf("grpc-status %s: %q", code, message[:min(len(message), 200)])
}

// servingStatus is HealthCheckResponse.ServingStatus of health.proto.
type servingStatus uint64

func (s servingStatus) Error() string {
	switch s {
	case 0:
		return "UNKNOWN"
	case 2:
		return "NOT_SERVING"
	case 3:
		return "SERVICE_UNKNOWN"
	}
	return fmt.Sprintf("serving status %d", uint64(s))
}

// appendHealthRequest appends a HealthCheckRequest with what precedes a message
// in a call, gRPC over HTTP/2 "Length-Prefixed-Message". It has one field, the
// service's name, as number 1.
func appendHealthRequest(b []byte, service string) []byte {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0)
	if service != "" {
		b = append(b, 1<<3|wireBytes)
		b = binary.AppendUvarint(b, uint64(len(service)))
		b = append(b, service...)
	}
	binary.BigEndian.PutUint32(b[start+1:], uint32(len(b)-start-5))
	return b
}

// Protocol Buffers' wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

var errMalformed = errors.New("the answer is no HealthCheckResponse")

// readHealthResponse reads the one message of an answer. Its field 1 is the
// status; others, of versions to come, are skipped.
func readHealthResponse(b []byte) (status servingStatus, err error) {
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return 0, errMalformed
	}
	for b = b[5:]; len(b) > 0; {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 {
			return 0, errMalformed
		}
		b = b[n:]
		size := uint64(0)
		switch tag & 7 {
		case wireVarint:
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, errMalformed
			}
			if tag>>3 == 1 {
				status = servingStatus(v)
			}
			size = uint64(n)
		case wireFixed64:
			size = 8
		case wireFixed32:
			size = 4
		case wireBytes:
			length, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, errMalformed
			}
			b, size = b[n:], length
		default:
			return 0, errMalformed
		}
		if size > uint64(len(b)) || tag>>3 == 1 && tag&7 != wireVarint {
			return 0, errMalformed
		}
		b = b[size:]
	}
	return status, nil
}

// content is a request's content.
type content struct{ rest []byte }

func (c *content) Next() ([]byte, error) {
	if len(c.rest) == 0 {
		return nil, io.EOF
	}
	p := c.rest
	c.rest = nil
	return p, nil
}

func (c *content) Ready() bool { return true }
func (c *content) Close()      {}
