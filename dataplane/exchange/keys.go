package exchange

// Key is the index of a well-known field name; see Field.
type Key uint8

// The names that Headgate itself reads or writes. A name that only policies
// of users mention does not belong here.
const (
	KeyOther Key = iota
	KeyAccept
	KeyAcceptEncoding
	KeyAccessControlAllowCredentials
	KeyAccessControlAllowHeaders
	KeyAccessControlAllowMethods
	KeyAccessControlAllowOrigin
	KeyAccessControlExposeHeaders
	KeyAccessControlMaxAge
	KeyAccessControlRequestHeaders
	KeyAccessControlRequestMethod
	KeyAge
	KeyAltSvc
	KeyAuthorization
	KeyCacheControl
	KeyConnection
	KeyContentEncoding
	KeyContentLength
	KeyContentType
	KeyCookie
	KeyDate
	KeyETag
	KeyExpect
	KeyForwarded
	KeyHost
	KeyHTTP2Settings
	KeyIfModifiedSince
	KeyIfNoneMatch
	KeyKeepAlive
	KeyLastModified
	KeyLocation
	KeyOrigin
	KeyProxyAuthenticate
	KeyProxyAuthorization
	KeyProxyConnection
	KeyRange
	KeyRetryAfter
	KeyServer
	KeySetCookie
	KeyTE
	KeyTrailer
	KeyTransferEncoding
	KeyUpgrade
	KeyUserAgent
	KeyVary
	KeyVia
	KeyWWWAuthenticate
	KeyXForwardedClientCert
	KeyXForwardedFor
	KeyXForwardedHost
	KeyXForwardedPort
	KeyXForwardedProto
	KeyXRealIP
	KeyXRequestID

	keys
)

// keyNames are the lower-case spellings, as HTTP/2 and HTTP/3 send them.
var keyNames = [keys]string{
	KeyAccept:                        "accept",
	KeyAcceptEncoding:                "accept-encoding",
	KeyAccessControlAllowCredentials: "access-control-allow-credentials",
	KeyAccessControlAllowHeaders:     "access-control-allow-headers",
	KeyAccessControlAllowMethods:     "access-control-allow-methods",
	KeyAccessControlAllowOrigin:      "access-control-allow-origin",
	KeyAccessControlExposeHeaders:    "access-control-expose-headers",
	KeyAccessControlMaxAge:           "access-control-max-age",
	KeyAccessControlRequestHeaders:   "access-control-request-headers",
	KeyAccessControlRequestMethod:    "access-control-request-method",
	KeyAge:                           "age",
	KeyAltSvc:                        "alt-svc",
	KeyAuthorization:                 "authorization",
	KeyCacheControl:                  "cache-control",
	KeyConnection:                    "connection",
	KeyContentEncoding:               "content-encoding",
	KeyContentLength:                 "content-length",
	KeyContentType:                   "content-type",
	KeyCookie:                        "cookie",
	KeyDate:                          "date",
	KeyETag:                          "etag",
	KeyExpect:                        "expect",
	KeyForwarded:                     "forwarded",
	KeyHost:                          "host",
	KeyHTTP2Settings:                 "http2-settings",
	KeyIfModifiedSince:               "if-modified-since",
	KeyIfNoneMatch:                   "if-none-match",
	KeyKeepAlive:                     "keep-alive",
	KeyLastModified:                  "last-modified",
	KeyLocation:                      "location",
	KeyOrigin:                        "origin",
	KeyProxyAuthenticate:             "proxy-authenticate",
	KeyProxyAuthorization:            "proxy-authorization",
	KeyProxyConnection:               "proxy-connection",
	KeyRange:                         "range",
	KeyRetryAfter:                    "retry-after",
	KeyServer:                        "server",
	KeySetCookie:                     "set-cookie",
	KeyTE:                            "te",
	KeyTrailer:                       "trailer",
	KeyTransferEncoding:              "transfer-encoding",
	KeyUpgrade:                       "upgrade",
	KeyUserAgent:                     "user-agent",
	KeyVary:                          "vary",
	KeyVia:                           "via",
	KeyWWWAuthenticate:               "www-authenticate",
	KeyXForwardedClientCert:          "x-forwarded-client-cert",
	KeyXForwardedFor:                 "x-forwarded-for",
	KeyXForwardedHost:                "x-forwarded-host",
	KeyXForwardedPort:                "x-forwarded-port",
	KeyXForwardedProto:               "x-forwarded-proto",
	KeyXRealIP:                       "x-real-ip",
	KeyXRequestID:                    "x-request-id",
}

// keySlots is a hash table of the names without chains: every name has a slot
// of its own, which init makes sure of by choosing the multiplier.
var (
	keySlots      [keySlotCount]Key
	keyMultiplier uint32
)

const keySlotCount = 512

// keyHash looks at the length and three letters only; KeyOf compares the rest.
func keyHash(name string, multiplier uint32) uint32 {
	n := len(name)
	h := uint32(n) | uint32(lower(name[n*3/4]))<<8 | uint32(lower(name[n-1]))<<16 | uint32(lower(name[n/2]))<<24
	return h * multiplier >> (32 - 9)
}

func init() {
	// Deterministic: with these names the twenty-first multiplier does. Names that
	// keyHash cannot tell apart would never fit.
	for keyMultiplier = 0x9E3779B1; !fillKeySlots(); keyMultiplier += 2 {
		if keyMultiplier > 0x9E3779B1+1<<16 {
			panic("exchange: keyHash cannot tell the well-known names apart")
		}
	}
}

func fillKeySlots() bool {
	clear(keySlots[:])
	for k := KeyOther + 1; k < keys; k++ {
		slot := &keySlots[keyHash(keyNames[k], keyMultiplier)]
		if *slot != KeyOther {
			return false
		}
		*slot = k
	}
	return true
}

// KeyOf returns the key of a field name in any case, or KeyOther.
func KeyOf(name string) Key {
	if name == "" {
		return KeyOther
	}
	k := keySlots[keyHash(name, keyMultiplier)]
	if k != KeyOther && EqualFold(name, keyNames[k]) {
		return k
	}
	return KeyOther
}

// Name returns the lower-case spelling of a well-known name.
func (k Key) Name() string { return keyNames[k] }

// HopByHop reports whether the field belongs to one connection and is never
// forwarded, RFC 9110 section 7.6.1. Fields that Connection nominates come on
// top of these. Trailer is forwarded: it describes the message.
func (k Key) HopByHop() bool {
	switch k {
	case KeyConnection, KeyKeepAlive, KeyProxyConnection, KeyProxyAuthenticate, KeyProxyAuthorization,
		KeyTE, KeyTransferEncoding, KeyUpgrade, KeyHTTP2Settings:
		return true
	}
	return false
}
