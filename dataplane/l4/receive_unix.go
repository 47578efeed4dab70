//go:build unix

package l4

import "syscall"

// receive waits for a datagram, and takes a buffer for it only when it is
// there: most flows are silent most of the time. The caller puts it back.
func (f *flow) receive() (buf *[maxDatagram]byte, n int, err error) {
	conn, ok := f.up.(syscall.Conn)
	if !ok {
		return nil, 0, syscall.ENOTSOCK
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, 0, err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buf = buffers.Get().(*[maxDatagram]byte)
		for {
			if n, failed = syscall.Read(int(fd), buf[:]); failed != syscall.EINTR {
				break
			}
		}
		if failed != nil {
			buffers.Put(buf)
		}
		return failed != syscall.EAGAIN
	})
	if err == nil {
		err = failed
	}
	return buf, n, err
}
