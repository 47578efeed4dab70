package protocols

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSlowhttptest has slowhttptest hold hundreds of connections open, in each of
// its four ways, while a second client wants to be served as ever.
func TestSlowhttptest(t *testing.T) {
	slowhttptest := installed(t, "slowhttptest")
	t.Parallel()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hello" {
			_, _ = io.WriteString(w, "hello")
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		http.ServeContent(w, r, "large", time.Time{}, strings.NewReader(strings.Repeat("x", 4<<20)))
	}))
	t.Cleanup(up.Close)
	for _, test := range []struct {
		name   string
		secure bool
		args   []string
		// closed says that Headgate must have closed all the connections by the end.
		closed bool
	}{
		{"slow headers", false, []string{"-H", "-i", "3", "-l", "40"}, true},
		{"slow headers over TLS", true, []string{"-H", "-i", "3", "-l", "40", "-r", "50", "-c", "100"}, true},
		{"slow content", false, []string{"-B", "-i", "3", "-s", "8192", "-l", "15"}, false},
		{"ranges", false, []string{"-R", "-t", "HEAD", "-a", "10", "-b", "3000", "-l", "15"}, false},
		{"slow reading", false, []string{"-X", "-w", "10", "-y", "20", "-n", "1", "-z", "32", "-k", "3", "-l", "15"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := start(t, backend("a", portOf(up.Listener.Addr()))+route("a"))
			url := fmt.Sprintf("http://127.0.0.1:%d/", h.plain)
			if test.secure {
				url = fmt.Sprintf("https://127.0.0.1:%d/", h.secure)
			}
			report := filepath.Join(t.TempDir(), "report")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, slowhttptest, append([]string{
				"-c", "500", "-r", "200", "-p", "20", "-u", url, "-g", "-o", report,
			}, test.args...)...)
			var out output
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			took := h.visit(t, ended)
			if err := ctx.Err(); err != nil {
				t.Fatalf("slowhttptest: %v\n%s", err, last(out.String(), 30))
			}
			slices.Sort(took)
			median, peak := took[len(took)/2], h.peak(t)
			t.Logf("%d requests were served meanwhile, half of them in %v, the slowest in %v; %d KiB of memory",
				len(took), median, took[len(took)-1], peak)
			// Both bounds are far from what is usual.
			if median > time.Second {
				t.Errorf("half of the requests took more than %v", median)
			}
			if peak > 256<<10 {
				t.Errorf("%d KiB of memory", peak)
			}
			rows := readCSV(t, report+".csv")
			most := 0
			for _, row := range rows { // seconds, closed, pending, connected, available
				closed, _ := strconv.Atoi(row[1])
				open, _ := strconv.Atoi(row[3])
				most = max(most, closed+open)
				if row[4] == "0" {
					t.Errorf("after %s s it was denied service", row[0])
				}
			}
			if most < 80 {
				t.Errorf("%d connections were made: nothing was tried\n%s", most, last(out.String(), 30))
			}
			if test.closed && !strings.Contains(out.String(), "No open connections left") {
				t.Errorf("connections are open in the end, want them closed\n%s", last(out.String(), 30))
			}
		})
	}
}

// visit asks for something again and again until slowhttptest ends, by turns
// over one connection and over new ones, and wants an answer each time. It
// returns how long each took.
func (h *headgate) visit(t *testing.T, ended <-chan error) (took []time.Duration) {
	old := &http.Client{Transport: &http.Transport{}, Timeout: 20 * time.Second}
	defer old.CloseIdleConnections()
	fresh := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for {
		for _, c := range []*http.Client{old, fresh} {
			began := time.Now()
			resp, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/hello", h.plain))
			if err != nil {
				t.Error(err)
				continue
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 || string(text) != "hello" || err != nil {
				t.Errorf("%d %q %v", resp.StatusCode, text, err)
			}
			took = append(took, time.Since(began))
		}
		select {
		case <-ended:
			return took
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// peak returns the most memory that Headgate has had resident, in KiB.
func (h *headgate) peak(t *testing.T) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status); m != nil {
		n, _ = strconv.Atoi(string(m[1]))
	}
	return n
}

func readCSV(t *testing.T, name string) [][]string {
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	if err != nil || len(rows) < 2 || len(rows[0]) != 5 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	return rows[1:]
}
