// Command mkinitrd writes the guest's initrd: siesta-guest as /init, the kernel modules
// it loads, cryptsetup and mke2fs with their libraries, and nothing else. The same
// inputs give the same bytes: entries are sorted, belong to root and have no time.
//
//	mkinitrd -kernel DIR -guest FILE -out FILE
//
// DIR is an unpacked kernel package. There is no shell in the archive and no other
// program.
package main

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	kernel := flag.String("kernel", "", "unpacked kernel package")
	guest := flag.String("guest", "", "the siesta-guest binary")
	out := flag.String("out", "", "the initrd to write")
	flag.Parse()
	if err := run(*kernel, *guest, *out); err != nil {
		fmt.Fprintln(os.Stderr, "mkinitrd:", err)
		os.Exit(1)
	}
}

func run(kernel, guest, out string) error {
	if kernel == "" || guest == "" || out == "" {
		return errors.New("-kernel, -guest and -out are all needed")
	}
	a := archive{}
	init, err := os.ReadFile(guest)
	if err != nil {
		return fmt.Errorf("reading the guest: %w", err)
	}
	a.file("init", 0o755, init)
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "data"} {
		a.dir(dir)
	}
	a.device("dev/console", 5, 1)
	a.device("dev/null", 1, 3)
	if err := a.modules(kernel); err != nil {
		return err
	}
	for _, program := range []string{"cryptsetup", "mke2fs"} {
		if err := a.program(program); err != nil {
			return err
		}
	}
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(a.bytes()); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	// Whoever reads the file sees the old initrd or the new one.
	next := out + ".new"
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil { //nolint:gosec // public files
		return err
	}
	if err := os.WriteFile(next, packed.Bytes(), 0o644); err != nil { //nolint:gosec // public files
		return fmt.Errorf("writing the initrd: %w", err)
	}
	if err := os.Rename(next, out); err != nil {
		return fmt.Errorf("writing the initrd: %w", err)
	}
	fmt.Printf("%x  %s\n", sha256.Sum256(packed.Bytes()), out)
	return nil
}
