package h1_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/headgate/headgate/dataplane/h1"
)

// Many clients at once, with content of all sizes, through poisoned buffers:
// everybody gets their own, unharmed. Over plain sockets and over TLS.
func TestManyClients(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Echo", r.Header.Get("X-Name"))
		content, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.URL.Query().Get("flush") != "" {
			for len(content) > 0 { // in pieces
				n := min(len(content), 1+rand.IntN(10000))
				_, _ = w.Write(content[:n])
				_ = http.NewResponseController(w).Flush()
				content = content[n:]
			}
			return
		}
		_, _ = w.Write(content)
	})
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS ", secure), func(t *testing.T) {
			upstream := httptest.NewUnstartedServer(echo)
			if secure {
				upstream.StartTLS()
			} else {
				upstream.Start()
			}
			t.Cleanup(upstream.Close)
			certificates := upstream.Client().Transport.(*http.Transport).TLSClientConfig

			p := &proxy{opts: &h1.ClientOptions{Poison: true}, dial: func() (net.Conn, error) {
				c, err := net.Dial("tcp", upstream.Listener.Addr().String())
				if err == nil && secure {
					c = tls.Client(c, &tls.Config{InsecureSkipVerify: true})
				}
				return c, err
			}}
			t.Cleanup(p.close)
			f := serveOver(t, p, &h1.ServerOptions{Poison: true}, func(c net.Conn) net.Conn {
				if secure {
					return tls.Server(c, &tls.Config{Certificates: upstream.TLS.Certificates})
				}
				return c
			})
			transport := &http.Transport{MaxIdleConnsPerHost: 32, TLSClientConfig: certificates.Clone()}
			t.Cleanup(transport.CloseIdleConnections)
			client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
			url := "http://" + f.address() + "/"
			if secure {
				url = "https" + url[4:]
			}
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for j := range 30 {
						if err := echoed(client, url, fmt.Sprintf("client %d request %d", i, j)); err != nil {
							t.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// echoed sends content of a random size in a random way and wants it back.
func echoed(client *http.Client, url, name string) error {
	sizes := [...]int{0, 1, 100, 4000, 5000, 16 << 10, 33000, 200000}
	content := strings.Repeat(name+"\n", 1+sizes[rand.IntN(len(sizes))]/len(name))
	var body io.Reader = strings.NewReader(content)
	if rand.IntN(2) == 0 {
		body = io.MultiReader(body) // of unknown length
	}
	if rand.IntN(2) == 0 {
		url += "?flush=1"
	}
	req, err := http.NewRequest("POST", url, body)
	if err != nil {
		return err
	}
	req.Header.Set("X-Name", name)
	if rand.IntN(8) == 0 {
		req.Header.Set("Expect", "100-continue")
	}
	r, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer r.Body.Close()
	got, err := io.ReadAll(r.Body)
	if err != nil || string(got) != content || r.Header.Get("X-Echo") != name || r.StatusCode != 200 {
		return fmt.Errorf("%s: %d, %v, %q, %d bytes of %d", name, r.StatusCode, err, r.Header.Get("X-Echo"), len(got), len(content))
	}
	return nil
}
