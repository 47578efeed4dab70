package observe

import (
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/headgate/headgate/dataplane/exchange"
)

// A line never has the query, neither the request's nor the referrer's: keys
// and tokens travel in queries, and logs are read by more people than may have
// them. What a client chose is escaped, so that no request can end its line or
// its quotes.

// appendJSON appends an object and a newline. Empty values are left out.
func appendJSON(b []byte, ex *exchange.Exchange, total time.Duration, err error) []byte {
	b = append(b, `{"time":"`...)
	b = ex.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, '"')
	if ex.Conn != nil {
		b = append(b, `,"remote":"`...)
		b = ex.Conn.Remote.AppendTo(b)
		b = append(b, '"')
	}
	if ex.ClientIP.IsValid() {
		b = append(b, `,"client":"`...)
		b = ex.ClientIP.AppendTo(b)
		b = append(b, '"')
	}
	b = jsonString(b, "request_id", ex.RequestID)
	b = jsonString(b, "method", ex.In.Method)
	b = jsonString(b, "scheme", ex.In.Scheme)
	b = jsonString(b, "authority", ex.In.Authority)
	b = jsonString(b, "path", ex.In.Path)
	b = jsonString(b, "protocol", ex.In.Proto.String())
	b = jsonInt(b, "status", int64(ex.Response.Status))
	if ex.In.IsGRPC() {
		b = jsonString(b, "grpc_status", ex.Response.GRPCStatus())
	}
	b = jsonInt(b, "received_bytes", ex.Received)
	b = jsonInt(b, "sent_bytes", ex.Sent)
	b = jsonInt(b, "duration_us", total.Microseconds())
	b = jsonInt(b, "upstream_wait_us", ex.Upstream.Wait.Microseconds())
	if r := ex.Route; r != nil {
		b = jsonString(b, "listener", r.Listener)
		b = append(b, `,"route":"`...)
		b = appendRoute(b, r)
		b = append(b, '"')
		b = jsonString(b, "rule", r.Rule)
	}
	b = jsonString(b, "cluster", ex.Upstream.Cluster)
	b = jsonString(b, "endpoint", ex.Upstream.Endpoint)
	if ex.Upstream.Tries != 0 {
		b = jsonInt(b, "tries", int64(ex.Upstream.Tries))
	}
	b = jsonString(b, "consumer", ex.Consumer.Name)
	b = jsonString(b, "user_agent", ex.In.Fields.Value(exchange.KeyUserAgent))
	b = jsonString(b, "referer", referer(ex))
	side, reason := cause(ex, err)
	if reason != "" {
		b = append(b, `,"reason":"`...)
		b = append(b, side...)
		b = escapeJSON(b, reason)
		b = append(b, '"')
	}
	b = append(b, `,"flags":[`...)
	start := len(b)
	for _, f := range flags {
		if f.is(ex, err) {
			if len(b) > start {
				b = append(b, ',')
			}
			b = append(b, '"')
			b = append(b, f.name...)
			b = append(b, '"')
		}
	}
	return append(b, "]}\n"...)
}

// appendText appends the combined format of nginx and Apache,
//
//	client - consumer [time] "request line" status bytes "referer" "user agent"
//
// followed by name=value pairs, and a newline. What is empty is "-".
func appendText(b []byte, ex *exchange.Exchange, total time.Duration, err error) []byte {
	switch {
	case ex.ClientIP.IsValid():
		b = ex.ClientIP.AppendTo(b)
	case ex.Conn != nil && ex.Conn.Remote.IsValid():
		b = ex.Conn.Remote.Addr().AppendTo(b)
	default:
		b = append(b, '-')
	}
	b = append(b, " - "...)
	b = textWord(b, ex.Consumer.Name)
	b = append(b, " ["...)
	b = ex.Start.AppendFormat(b, "02/Jan/2006:15:04:05 -0700")
	b = append(b, `] "`...)
	b = textWord(b, ex.In.Method)
	b = append(b, ' ')
	b = textWord(b, ex.In.Path)
	b = append(b, ' ')
	b = append(b, ex.In.Proto.String()...)
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(ex.Response.Status), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, ex.Sent, 10)
	b = append(b, ' ')
	b = textQuoted(b, referer(ex))
	b = append(b, ' ')
	b = textQuoted(b, ex.In.Fields.Value(exchange.KeyUserAgent))
	b = append(b, " id="...)
	b = textWord(b, ex.RequestID)
	b = append(b, " host="...)
	b = textWord(b, ex.In.Authority)
	b = append(b, " route="...)
	if ex.Route != nil {
		b = appendRoute(b, ex.Route)
	} else {
		b = append(b, '-')
	}
	b = append(b, " cluster="...)
	b = textWord(b, ex.Upstream.Cluster)
	b = append(b, " endpoint="...)
	b = textWord(b, ex.Upstream.Endpoint)
	if ex.In.IsGRPC() {
		b = append(b, " grpc_status="...)
		b = textWord(b, ex.Response.GRPCStatus())
	}
	b = append(b, " us="...)
	b = strconv.AppendInt(b, total.Microseconds(), 10)
	b = append(b, " upstream_wait_us="...)
	b = strconv.AppendInt(b, ex.Upstream.Wait.Microseconds(), 10)
	b = append(b, " reason="...)
	side, reason := cause(ex, err)
	b = append(b, side...)
	b = textWord(b, reason)
	b = append(b, " flags="...)
	start := len(b)
	for _, f := range flags {
		if f.is(ex, err) {
			if len(b) > start {
				b = append(b, ',')
			}
			b = append(b, f.name...)
		}
	}
	if len(b) == start {
		b = append(b, '-')
	}
	return append(b, '\n')
}

// flags are what happened to an exchange, one word each.
var flags = [...]struct {
	name string
	is   func(ex *exchange.Exchange, err error) bool
}{
	// Headgate itself answered.
	{"local", func(ex *exchange.Exchange, _ error) bool { return ex.Response.Local }},
	// More than one request was sent upstream.
	{"retried", func(ex *exchange.Exchange, _ error) bool { return ex.Upstream.Tries > 1 }},
	// Another request was sent beside one that took long.
	{"hedged", func(ex *exchange.Exchange, _ error) bool { return ex.Upstream.Hedges > 0 }},
	// Another backend than the rule's, or a response of our own, stood in.
	{"fallback", func(ex *exchange.Exchange, _ error) bool { return ex.Upstream.Fallback }},
	// The connection went on as a tunnel.
	{"tunnel", func(ex *exchange.Exchange, _ error) bool { return ex.Response.Tunnel != nil }},
	// The response did not reach the client whole.
	{"cut", func(_ *exchange.Exchange, err error) bool { return err != nil }},
}

// cause returns why an exchange did not go as asked: why Headgate itself
// answered, or which side failed and how.
func cause(ex *exchange.Exchange, err error) (side, reason string) {
	if err != nil {
		if e, ok := errors.AsType[*exchange.ClientError](err); ok {
			return "client:", e.Reason
		}
		if e, ok := errors.AsType[*exchange.UpstreamError](err); ok {
			return "upstream:", e.Reason
		}
		if ex.Response.LocalReason == "" {
			return "", "error"
		}
	}
	return "", ex.Response.LocalReason
}

func appendRoute(b []byte, r *exchange.RouteInfo) []byte {
	b = append(b, r.Kind...)
	b = append(b, '/')
	b = append(b, r.Namespace...)
	b = append(b, '/')
	return append(b, r.Name...)
}

func referer(ex *exchange.Exchange) string {
	value, _ := ex.In.Fields.Get("Referer")
	if i := strings.IndexByte(value, '?'); i >= 0 {
		return value[:i]
	}
	return value
}

func jsonInt(b []byte, name string, n int64) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return strconv.AppendInt(b, n, 10)
}

func jsonString(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, `":"`...)
	b = escapeJSON(b, value)
	return append(b, '"')
}

const hexDigits = "0123456789abcdef"

// escapeJSON appends a string's content as RFC 8259 section 7 wants it. Bytes
// that are not UTF-8 become U+FFFD. DEL and the separators that JavaScript
// takes for line ends are escaped too, for the sake of terminals and browsers.
func escapeJSON(b []byte, s string) []byte {
	plain := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[plain:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			plain = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, s[plain:i]...)
			b = append(b, `\ufffd`...)
			plain = i + size
		case r == '\u2028' || r == '\u2029' || 0x80 <= r && r < 0xa0:
			b = append(b, s[plain:i]...)
			b = append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
			plain = i + size
		}
		i += size
	}
	return append(b, s[plain:]...)
}

// escapeText appends printable ASCII as it is, and the rest, quotes and
// backslashes as \xHH, as nginx does.
func escapeText(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			b = append(b, c)
		} else {
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return b
}

// textWord appends a value that ends at the next space.
func textWord(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	for len(s) > 0 {
		word, rest, spaced := strings.Cut(s, " ")
		b = escapeText(b, word)
		if spaced {
			b = append(b, `\x20`...)
		}
		s = rest
	}
	return b
}

func textQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	if s == "" {
		b = append(b, '-')
	}
	b = escapeText(b, s)
	return append(b, '"')
}
