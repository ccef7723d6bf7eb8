package main

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
)

// archive is a cpio archive in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst),
// by path. A path that is put twice is the same file twice.
type archive map[string]entry

type entry struct {
	mode         uint32
	major, minor uint32
	data         []byte
}

const (
	typeDir    = 0o040000
	typeFile   = 0o100000
	typeDevice = 0o020000
)

func (a archive) dir(name string) {
	for ; name != "." && name != "/"; name = path.Dir(name) {
		if _, ok := a[name]; !ok {
			a[name] = entry{mode: typeDir | 0o755}
		}
	}
}

func (a archive) put(name string, e entry) {
	a.dir(path.Dir(name))
	a[name] = e
}

func (a archive) file(name string, mode uint32, data []byte) {
	a.put(name, entry{mode: typeFile | mode, data: data})
}

func (a archive) device(name string, major, minor uint32) {
	a.put(name, entry{mode: typeDevice | 0o600, major: major, minor: minor})
}

// bytes writes the entries in the order of their paths, so a directory comes before
// what is in it.
func (a archive) bytes() []byte {
	var out bytes.Buffer
	write := func(inode int, name string, e entry) {
		links := 1
		if e.mode&typeDir != 0 && e.mode&typeFile != typeFile {
			links = 2
		}
		// magic, inode, mode, uid, gid, links, time, size, device of the file, device
		// it is, length of the name, checksum (always 0 in this form)
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
			inode, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(name)+1, 0)
		out.WriteString(name)
		out.WriteByte(0)
		pad(&out)
		out.Write(e.data)
		pad(&out)
	}
	for i, name := range slices.Sorted(maps.Keys(a)) {
		write(i+1, name, a[name])
	}
	write(0, "TRAILER!!!", entry{})
	return out.Bytes()
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
