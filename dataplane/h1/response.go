package h1

import (
	"github.com/headgate/headgate/dataplane/exchange"
	"github.com/headgate/headgate/dataplane/syntax"
)

// responseHead is what a response's head says beyond exchange.Response.
type responseHead struct {
	message
	status     int
	reason     string
	proto      exchange.Proto
	kind       framing
	persistent bool
}

// parseResponse reads a complete head, whose lines end at ends, and appends
// the fields that may be forwarded. method is the request's.
func parseResponse(head []byte, ends []int32, method string, fields *exchange.Fields, h *responseHead) *refusal {
	*h = responseHead{}
	if !parseStatusLine(head[:ends[0]], h) {
		return errStatusLine
	}
	if err := parseFields(head, ends, fields, &h.message); err != nil {
		return err
	}
	kind, err := h.framing(h.proto)
	if err != nil {
		return err
	}
	h.persistent = h.message.persistent(h.proto)
	if h.hop {
		endToEnd(fields)
	}
	// RFC 9112 section 6.3, items 1 and 2, and RFC 9110 section 8.6.
	switch {
	case h.status < 200:
		if h.lengths > 0 || h.encodings > 0 {
			return errInformFrame
		}
	case method == "HEAD" || h.status == 204 || h.status == 304:
		if kind == framedChunked {
			h.length = -1
		}
	case method == "CONNECT" && h.status < 300:
	default:
		h.kind = kind
		if h.lengths == 0 && h.encodings == 0 {
			h.kind = framedClose
			h.persistent = false
		}
	}
	return nil
}

// parseStatusLine reads version SP 3DIGIT [ SP reason ], RFC 9112 section 4.
// The space before a missing reason is missing often enough.
func parseStatusLine(line []byte, h *responseHead) bool {
	if len(line) < 12 || string(line[:7]) != "HTTP/1." || line[8] != ' ' {
		return false
	}
	switch line[7] {
	case '1':
		h.proto = exchange.HTTP11
	case '0':
		h.proto = exchange.HTTP10
	default:
		return false
	}
	for _, c := range line[9:12] {
		if !syntax.Digit(c) {
			return false
		}
		h.status = h.status*10 + int(c-'0')
	}
	if h.status < 100 || h.status > 599 {
		return false // RFC 9110 section 15
	}
	if len(line) == 12 {
		return true
	}
	reason := line[13:]
	if line[12] != ' ' || !syntax.CleanValue(reason) {
		return false
	}
	h.reason = str(reason)
	return true
}
