//go:build !unix

package l4

// receive waits for a datagram. The caller puts the buffer back.
func (f *flow) receive() (buf *[maxDatagram]byte, n int, err error) {
	buf = buffers.Get().(*[maxDatagram]byte)
	if n, err = f.up.Read(buf[:]); err != nil {
		buffers.Put(buf)
	}
	return buf, n, err
}
