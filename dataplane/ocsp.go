package dataplane

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxOCSP bounds an OCSP response, in bytes: they have a few thousand at most.
const maxOCSP = 64 << 10

// askOCSP posts an OCSP request, RFC 6960 appendix A.1.
func askOCSP(ctx context.Context, client *http.Client, url string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	req.Header.Set("Accept", "application/ocsp-response")
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	der, err := io.ReadAll(io.LimitReader(resp.Body, maxOCSP+1))
	if err == nil && len(der) > maxOCSP {
		err = fmt.Errorf("the response has more than %d bytes", maxOCSP)
	}
	return der, err
}
