package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestTheProgramsPagesAreDropped(t *testing.T) {
	before := residentFile(t)
	dropProgram()
	if after := residentFile(t); after > before*2/3 {
		t.Errorf("%d KiB of files are resident, before it were %d", after, before)
	}
}

// residentFile returns how many KiB of files the process has in memory.
func residentFile(t *testing.T) (kib int) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssFile:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

func TestMappingsAreRead(t *testing.T) {
	for line, want := range map[string]string{
		"00400000-01f6c000 r-xp 00000000 fe:00 12  /bin/headgate":                "400000 1f6c000 r-xp 00000000 fe:00 12  /bin/headgate",
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0     [vsyscall]": "ffffffffff600000 ffffffffff601000 --xp 00000000 00:00 0     [vsyscall]",
		"Anonymous:             0 kB":                                            "",
		"VmFlags: rd ex mr mw me dw sd":                                          "",
		"":                                                                       "",
	} {
		got := ""
		if from, to, rest, ok := mapping(line); ok {
			got = fmt.Sprintf("%x %x %s", from, to, rest)
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
