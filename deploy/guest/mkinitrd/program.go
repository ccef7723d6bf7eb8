package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Where Debian keeps programs and libraries. The machine's own settings (PATH, ld.so.cache) have no say, so that they
// cannot change the bytes.
var (
	programDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64"}
)

// lateLibraries are opened by name while a program runs: glibc takes this one when a thread ends.
var lateLibraries = []string{"libgcc_s.so.1"}

// program puts a program into usr/sbin, its libraries where Debian's dynamic loader looks without a
// cache, and that loader where programs name it.
func (a archive) program(name string) error {
	image, err := find(programDirs, name)
	if err != nil {
		return err
	}
	a.file("usr/sbin/"+name, 0o755, image)
	return a.libraries(name, image, lateLibraries)
}

func (a archive) libraries(of string, image []byte, also []string) error {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("reading %s: %w", of, err)
	}
	needs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("reading %s: %w", of, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		loader := make([]byte, p.Filesz)
		if _, err := p.ReadAt(loader, 0); err != nil {
			return fmt.Errorf("reading %s: %w", of, err)
		}
		name := strings.Trim(string(loader), "/\x00")
		image, err := find(libraryDirs, filepath.Base(name))
		if err != nil {
			return fmt.Errorf("%s needs it: %w", of, err)
		}
		a.file(name, 0o755, image)
	}
	for _, lib := range append(needs, also...) {
		target := "lib/x86_64-linux-gnu/" + lib
		if _, ok := a[target]; ok {
			continue
		}
		image, err := find(libraryDirs, lib)
		if err != nil {
			return fmt.Errorf("%s needs it: %w", of, err)
		}
		a.file(target, 0o755, image)
		if err := a.libraries(lib, image, nil); err != nil {
			return err
		}
	}
	return nil
}

func find(dirs []string, name string) ([]byte, error) {
	for _, dir := range dirs {
		image, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return image, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s is not installed (see deploy/guest/packages.txt)", name)
}
