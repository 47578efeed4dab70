package pipeline

import (
	"io"
	"testing"
)

// TestHeldBodyIsGivenUp while the codec is pulling it: the race detector says if
// the two touch the same.
func TestHeldBodyIsGivenUp(t *testing.T) {
	b := &heldBody{content: []byte("content")}
	read := make(chan string)
	go func() {
		part, err := b.Next()
		if _, end := b.Next(); err != nil || end != io.EOF {
			t.Errorf("%v, then %v", err, end)
		}
		read <- string(part)
	}()
	b.Close()
	if got := <-read; got != "content" {
		t.Errorf("%q", got)
	}
}
