package h1

// refusal is why a message is not accepted. Status is what the server side
// answers; the client side knows malformed responses only.
type refusal struct {
	status int
	reason string // one word, for logs, metrics and the answer's text
}

func (r *refusal) Error() string { return r.reason }

// What is refused, with the sections that say so. All of these close the connection.
var (
	errBareLF         = &refusal{400, "bare_lf"}             // RFC 9112 section 2.2, which permits but does not ask to accept it
	errRequestLine    = &refusal{400, "request_line"}        // section 3
	errMethod         = &refusal{400, "method"}              // RFC 9110 section 9.1: a token
	errTarget         = &refusal{400, "target"}              // RFC 9112 section 3.2
	errVersion        = &refusal{400, "version"}             // section 2.3
	errNotHTTP        = &refusal{400, "protocol"}            // section 2.3; see ServerConn.refuse
	errVersionUnknown = &refusal{505, "version_unsupported"} // RFC 9110 section 15.6.6
	errLineLong       = &refusal{414, "request_line_too_long"}
	errHeadLong       = &refusal{431, "header_too_large"}
	errFieldMany      = &refusal{431, "too_many_fields"}
	errFieldFold      = &refusal{400, "obs_fold"}         // RFC 9112 section 5.2
	errFieldName      = &refusal{400, "field_name"}       // section 5.1: no white space before the colon
	errFieldValue     = &refusal{400, "field_value"}      // RFC 9110 section 5.5
	errUnderscore     = &refusal{400, "field_underscore"} // by option only
	errHostMissing    = &refusal{400, "host_missing"}     // RFC 9112 section 3.2
	errHostRepeated   = &refusal{400, "host_repeated"}
	errHost           = &refusal{400, "host"}
	errHostDiffers    = &refusal{400, "host_differs"}            // from the target's; section 3.2.2 would have Host ignored
	errLength         = &refusal{400, "content_length"}          // section 6.3 item 5
	errLengthRepeated = &refusal{400, "content_length_repeated"} // even if equal
	errLengthAndTE    = &refusal{400, "length_and_encoding"}     // section 6.1: may be an attempt at smuggling
	errTE             = &refusal{400, "transfer_encoding"}       // section 6.1
	errTEUnknown      = &refusal{501, "transfer_encoding_unknown"}
	errTEIn10         = &refusal{400, "transfer_encoding_in_http10"} // section 6.1
	errUpgradeBody    = &refusal{400, "upgrade_with_content"}        // who reads the content, and in which protocol?
	errExpect         = &refusal{417, "expectation"}                 // RFC 9110 section 10.1.1
	errConnect        = &refusal{501, "connect"}
	errBodyLong       = &refusal{413, "content_too_large"}
	errHeaderTimeout  = &refusal{408, "header_timeout"}
	errTruncatedHead  = &refusal{400, "truncated_header"}

	errChunk     = &refusal{400, "chunk"}             // RFC 9112 section 7.1
	errChunkExt  = &refusal{400, "chunk_extension"}   // section 7.1.1
	errTrailer   = &refusal{400, "trailer"}           // section 7.1.2
	errTruncated = &refusal{400, "truncated_content"} // section 8

	errStatusLine  = &refusal{502, "status_line"} // section 4
	errInformMany  = &refusal{502, "too_many_interim_responses"}
	errInformFrame = &refusal{502, "interim_response_with_framing"}
	errUnasked101  = &refusal{502, "unasked_upgrade"} // RFC 9110 section 7.8
	errUnasked     = &refusal{502, "unasked_bytes"}
)
