package h1

import (
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/link"
	"github.com/headgate/headgate/dataplane/syntax"
)

// writer is the sending half of a connection. It gathers a message's head and
// what is ready of its content, so that a small message is one write.
type writer struct {
	conn    *conn
	timeout time.Duration
	out     []byte // gathered; nil while there is nothing to send
	// vector and list are the parts of a gathering write.
	vector [3][]byte
	list   net.Buffers
}

// copyLimit is up to what size content is copied behind what is gathered;
// beyond it, it is written from where it is.
const copyLimit = 4 << 10

// begin makes out ready to be appended to.
func (w *writer) begin() {
	if w.out == nil {
		w.out = link.TakeBuffer(link.MediumBuffer)[:0]
	}
}

// release gives the buffer back, and drops what was gathered.
func (w *writer) release() {
	if w.out != nil {
		link.GiveBuffer(w.out)
		w.out = nil
	}
}

// flush writes what is gathered.
func (w *writer) flush() error {
	if len(w.out) == 0 {
		return nil
	}
	err := w.write(w.out)
	w.out = w.out[:0]
	return err
}

func (w *writer) write(p []byte) error {
	if !w.conn.DL.Write(w.timeout) {
		return errTimeout
	}
	err := w.conn.Write(p)
	if !w.conn.DL.Write(0) && err == nil {
		err = errTimeout
	}
	return err
}

// add sends p after what is gathered, now or later, and tail after it.
func (w *writer) add(p []byte, tail string) error {
	if len(p) <= copyLimit {
		if len(w.out)+len(p)+len(tail) > cap(w.out) {
			if err := w.flush(); err != nil {
				return err
			}
		}
		w.out = append(w.out, p...)
		w.out = append(w.out, tail...)
		return nil
	}
	if w.conn.Raw == nil {
		// No gathering write there; what fits becomes one record all the same.
		if len(w.out)+len(p)+len(tail) <= cap(w.out) {
			w.out = append(append(w.out, p...), tail...)
			return nil
		}
		if err := w.flush(); err != nil {
			return err
		}
		w.out = append(w.out, tail...) // goes out with what follows
		return w.write(p)
	}
	w.list = w.vector[:0]
	if len(w.out) > 0 {
		w.list = append(w.list, w.out)
	}
	w.list = append(w.list, p)
	if tail != "" {
		w.list = append(w.list, bytesOf(tail))
	}
	if !w.conn.DL.Write(w.timeout) {
		return errTimeout
	}
	_, err := w.list.WriteTo(w.conn.NC)
	w.vector = [3][]byte{}
	w.out = w.out[:0]
	if !w.conn.DL.Write(0) && err == nil {
		err = errTimeout
	}
	return err
}

// addChunk sends p as a chunk.
func (w *writer) addChunk(p []byte) error {
	if cap(w.out)-len(w.out) < 20 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	w.out = strconv.AppendUint(w.out, uint64(len(p)), 16)
	w.out = append(w.out, '\r', '\n')
	return w.add(p, "\r\n")
}

// addTrailers ends chunked content, RFC 9112 section 7.1.
func (w *writer) addTrailers(trailers exchange.Fields) {
	w.out = append(w.out, "0\r\n"...)
	for i := range trailers {
		if f := &trailers[i]; syntax.MayTrail(f.Key) && !framed[f.Key] {
			w.out = appendField(w.out, f.Name, f.Value)
		}
	}
	w.out = append(w.out, '\r', '\n')
}

// framed are the fields that the codec alone writes, whatever it is given:
// those that frame the message or belong to the connection.
var framed = [256]bool{
	exchange.KeyHost: true, exchange.KeyContentLength: true, exchange.KeyTransferEncoding: true,
	exchange.KeyConnection: true, exchange.KeyKeepAlive: true, exchange.KeyProxyConnection: true,
	exchange.KeyTE: true, exchange.KeyUpgrade: true, exchange.KeyExpect: true, exchange.KeyHTTP2Settings: true,
}

func appendFields(b []byte, fields exchange.Fields) []byte {
	for i := range fields {
		if f := &fields[i]; !framed[f.Key] {
			b = appendField(b, f.Name, f.Value)
		}
	}
	return b
}

// appendField appends a field line. What was received has been checked, but
// values are also made from templates and claims: a line break in one must not
// become a line.
func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	start := len(b)
	b = append(b, value...)
	if v := b[start:]; !syntax.CleanValue(v) {
		for i := range v {
			if syntax.Classes[v[i]]&syntax.ValueChar == 0 {
				v[i] = ' '
			}
		}
	}
	return append(b, '\r', '\n')
}

func appendLength(b []byte, n int64) []byte {
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, n, 10)
	return append(b, '\r', '\n')
}

// appendDate appends the Date line, RFC 9110 section 6.6.1, which is made once a second.
func appendDate(b []byte) []byte {
	now := deadline.Unix()
	line := dateLine.Load()
	if line == nil || line.second != now {
		line = &date{now, "Date: " + time.Unix(now, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT") + "\r\n"}
		dateLine.Store(line)
	}
	return append(b, line.text...)
}

type date struct {
	second int64
	text   string
}

var dateLine atomic.Pointer[date]

// appendStatus appends a status line. An empty reason means the usual one.
func appendStatus(b []byte, status int, reason string) []byte {
	if status >= 100 && status < 600 {
		if line := statusLines[status]; line != "" {
			if reason == "" || reason == line[len("HTTP/1.1 200 "):len(line)-2] {
				return append(b, line...)
			}
		}
	}
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	start := len(b)
	b = append(b, reason...)
	for i := start; i < len(b); i++ {
		if syntax.Classes[b[i]]&syntax.ValueChar == 0 {
			b[i] = ' '
		}
	}
	return append(b, '\r', '\n')
}

var statusLines = makeStatusLines()

func makeStatusLines() (lines [600]string) {
	for status, reason := range reasons {
		lines[status] = "HTTP/1.1 " + strconv.Itoa(status) + " " + reason + "\r\n"
	}
	return lines
}

// reasons are the phrases of RFC 9110 section 15 and of the IANA registry.
var reasons = map[int]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
	205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
	305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
	409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
	421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked", 424: "Failed Dependency",
	425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
	507: "Insufficient Storage", 508: "Loop Detected", 511: "Network Authentication Required",
}
