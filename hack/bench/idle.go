package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rest is how long connections are idle before memory is measured.
const rest = 5 * time.Second

// holdIdle opens the connections, sends one request on each, and measures the
// proxy's memory while all of them are idle.
func holdIdle(ctx context.Context, s *scenario, p *proxy) (sample, error) {
	conns := make([]net.Conn, 0, s.connections)
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	pace := time.NewTicker(10 * time.Second / time.Duration(s.connections))
	defer pace.Stop()
	for range s.connections {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return sample{}, ctx.Err()
		}
		c, err := open(s, p)
		if err != nil {
			return sample{}, fmt.Errorf("after %d connections: %w", len(conns), err)
		}
		conns = append(conns, c)
		if err := ask(c, s.path); err != nil {
			return sample{}, fmt.Errorf("after %d connections: %w", len(conns), err)
		}
	}
	select {
	case <-time.After(rest):
	case <-ctx.Done():
		return sample{}, ctx.Err()
	}
	// They are still served, so they were held.
	for _, i := range []int{0, len(conns) / 2, len(conns) - 1} {
		if err := ask(conns[i], s.path); err != nil {
			return sample{}, fmt.Errorf("connection %d was not kept: %w", i, err)
		}
	}
	resident, err := p.resident()
	return sample{resident: resident}, err
}

func open(s *scenario, p *proxy) (net.Conn, error) {
	d := &net.Dialer{Timeout: 5 * time.Second}
	switch s.listener {
	case https:
		return tls.DialWithDialer(d, "tcp", p.HTTPS, &tls.Config{ServerName: host, InsecureSkipVerify: true})
	case h2c:
		c, err := d.Dial("tcp", p.H2C)
		if err != nil {
			return nil, err
		}
		_, err = io.WriteString(c, http2.ClientPreface)
		if err == nil {
			err = http2.NewFramer(c, nil).WriteSettings()
		}
		return &h2Conn{Conn: c}, err
	}
	return d.Dial("tcp", p.HTTP)
}

// ask sends a GET and reads the response.
func ask(c net.Conn, path string) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if h2, ok := c.(*h2Conn); ok {
		return h2.ask(path)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1024), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Close {
		return errors.New(resp.Status)
	}
	return nil
}

// h2Conn is as little of HTTP/2 as holding a connection needs: the responses
// are not looked into.
type h2Conn struct {
	net.Conn
	streams uint32
}

func (c *h2Conn) ask(path string) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", host}, {":path", path}} {
		encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true}) // so that nothing is kept for later
	}
	id := 2*c.streams + 1
	c.streams++
	framer := http2.NewFramer(c.Conn, c.Conn)
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	for err == nil {
		var frame http2.Frame
		if frame, err = framer.ReadFrame(); err != nil {
			break
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			err = errors.New(frame.Header().String())
		case *http2.DataFrame:
			if f.StreamID == id && f.StreamEnded() {
				return nil
			}
		}
	}
	return err
}
