package main

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is what the process has had, user and system.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // it only fails for others than SELF
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// dropProgram gives back what is resident of the program's own file: a start
// needs most of it once, all tables and initialisers of what is linked in. What
// is needed again comes from the page cache, or the file.
func dropProgram() {
	program, err := os.Executable()
	if err != nil {
		return
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	var from, to uintptr // of the mapping whose lines these are, if it is to go
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		if start, end, rest, ok := mapping(line); ok {
			from, to = 0, 0
			if strings.HasSuffix(rest, program) && rest[1] != 'w' {
				from, to = start, end
			}
			continue
		}
		// A mapping of which nothing was changed, as a linker's relocations do, is as the file is.
		if size, ok := strings.CutPrefix(line, "Anonymous:"); ok && to > 0 && strings.TrimSpace(size) == "0 kB" {
			_, _, _ = unix.RawSyscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED)
		}
	}
}

// mapping reads the line of /proc/self/smaps that begins a mapping, proc(5).
// rest begins with its permissions.
func mapping(line string) (from, to uintptr, rest string, ok bool) {
	addresses, rest, _ := strings.Cut(line, " ")
	first, last, ok := strings.Cut(addresses, "-")
	a, err := strconv.ParseUint(first, 16, 64)
	b, err2 := strconv.ParseUint(last, 16, 64)
	return uintptr(a), uintptr(b), rest, ok && err == nil && err2 == nil && len(rest) > 4
}
