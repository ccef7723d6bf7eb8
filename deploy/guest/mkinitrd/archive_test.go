package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

func example() archive {
	a := archive{}
	a.file("usr/sbin/tool", 0o755, []byte("tool"))
	a.file("init", 0o755, []byte("init!"))
	a.device("dev/null", 1, 3)
	return a
}

func TestArchiveIsTheSameTwice(t *testing.T) {
	if !bytes.Equal(example().bytes(), example().bytes()) {
		t.Error("two archives of the same entries differ")
	}
}

// A directory must come before what is in it, or the kernel drops the file.
func TestArchiveOrder(t *testing.T) {
	b := example().bytes()
	at := -1
	for _, name := range []string{"\x00dev\x00", "dev/null\x00", "init\x00", "usr\x00", "usr/sbin\x00", "usr/sbin/tool\x00", "TRAILER!!!\x00"} {
		i := bytes.Index(b, []byte(strings.TrimPrefix(name, "\x00")))
		if i <= at {
			t.Fatalf("%q is at %d, after %d", name, i, at)
		}
		at = i
	}
	if len(b)%4 != 0 {
		t.Error("not padded")
	}
}

func TestProgramBringsItsLoader(t *testing.T) {
	a := archive{}
	if err := a.program("cryptsetup"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"usr/sbin/cryptsetup", "lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6", "lib/x86_64-linux-gnu/libcryptsetup.so.12", "lib/x86_64-linux-gnu/libgcc_s.so.1"} {
		if _, ok := a[want]; !ok {
			t.Errorf("%s is missing", want)
		}
	}
	for name := range a {
		if strings.HasSuffix(name, "sh") {
			t.Errorf("there is a shell: %s", name)
		}
	}
	if err := a.program("no-such-program"); err == nil || !strings.Contains(err.Error(), "packages.txt") {
		t.Errorf("a missing program: %v", err)
	}
}

func TestDependenciesOfWhatIsNoModule(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Errorf("packages.txt names xz-utils, which is not installed: %v", err)
	}
	if _, err := dependencies([]byte("not a module")); err == nil {
		t.Error("accepted")
	}
}
