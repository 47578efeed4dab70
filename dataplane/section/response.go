package section

import (
	"sync/atomic"
	"time"

	"github.com/headgate/headgate/dataplane/deadline"
	"github.com/headgate/headgate/dataplane/exchange"
)

// Unsent are the fields that a codec alone writes, or that belong to one
// connection and must not be sent, RFC 9113 section 8.2.2 and RFC 9114 section 4.2.
var Unsent = [256]bool{
	exchange.KeyHost: true, exchange.KeyContentLength: true, exchange.KeyTransferEncoding: true,
	exchange.KeyConnection: true, exchange.KeyKeepAlive: true, exchange.KeyProxyConnection: true,
	exchange.KeyTE: true, exchange.KeyUpgrade: true, exchange.KeyExpect: true, exchange.KeyHTTP2Settings: true,
}

// Bodiless reports whether a response has no content whatever it says.
func Bodiless(method string, status int) bool {
	return method == "HEAD" || status == 204 || status == 304
}

// Length returns what Content-Length says of a response whose content is body,
// or -1 for none, RFC 9110 section 8.6.
func Length(r *exchange.Response, method string, body exchange.Body) int64 {
	switch {
	case r.Status == 204 || method == "CONNECT" && r.Status < 300:
		return -1
	case r.Status == 304:
		if r.Length > 0 { // 0 is rather what nobody has set
			return r.Length
		}
		return -1
	case method == "HEAD":
		return r.Length
	case body == nil:
		return 0
	}
	return r.Length
}

// Date returns the Date field of now, RFC 9110 section 6.6.1, which is made
// once a second.
func Date() *exchange.Field {
	now := deadline.Unix()
	d := date.Load()
	if d == nil || d.second != now {
		d = &dateField{now, exchange.Field{
			Key: exchange.KeyDate, Name: "date", Value: time.Unix(now, 0).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"),
		}}
		date.Store(d)
	}
	return &d.field
}

type dateField struct {
	second int64
	field  exchange.Field
}

var date atomic.Pointer[dateField]
