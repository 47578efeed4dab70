package exchange

import "testing"

func TestIsGRPC(t *testing.T) {
	for contentType, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "Application/GRPC; x=y": true,
		"application/grpc-web": false, "application/grpc-web+proto": false, "application/grp": false, "text/plain": false, "": false,
	} {
		r := Request{Proto: HTTP2, Fields: Fields{NewField("Content-Type", contentType)}}
		if r.IsGRPC() != want {
			t.Errorf("%q: %v", contentType, !want)
		}
		if r.Proto = HTTP11; r.IsGRPC() {
			t.Errorf("%q over HTTP/1.1 is taken for gRPC", contentType)
		}
	}
}

func TestGRPCStatus(t *testing.T) {
	var r Response
	if got := r.GRPCStatus(); got != "" {
		t.Errorf("%q of nothing", got)
	}
	r.Fields.Add("Grpc-Status", "5")
	if got := r.GRPCStatus(); got != "5" {
		t.Errorf("%q from the header", got)
	}
	r.Trailers.Add("grpc-status", "0")
	if got := r.GRPCStatus(); got != "0" {
		t.Errorf("%q from the trailers", got)
	}
}
