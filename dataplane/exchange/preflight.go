package exchange

// Preflight returns the method that a CORS preflight asks for, "" if the
// request is none: an OPTIONS that says where it comes from and which method is
// to follow, Fetch standard, "CORS-preflight request".
func (r *Request) Preflight() (method string) {
	if r.Method != "OPTIONS" || r.Fields.Find(KeyOrigin) < 0 {
		return ""
	}
	for i := range r.Fields {
		if f := &r.Fields[i]; f.Key == KeyAccessControlRequestMethod {
			if method != "" {
				return "" // two methods are no method
			}
			method = f.Value
		}
	}
	return method
}
