package main

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// wanted are the modules that a guest loads, in this order, each after what it needs; '-' marks one
// that may refuse because the machine lacks the device or the processor the instruction.
var wanted = []string{
	"virtio_blk", "virtio_net",
	"-aesni-intel", "xts", "algif_skcipher", "dm-crypt",
	"-button", "-evdev",
	"configfs", "-tsm", "-sev-guest", "-tdx-guest",
}

// modules puts the wanted modules and what they need into lib/modules, uncompressed, and the order of
// loading into lib/modules/load, which is all that siesta-guest reads.
func (a archive) modules(kernel string) error {
	found, err := findModules(kernel)
	if err != nil {
		return err
	}
	l := loader{found: found, archive: a, done: map[string]bool{}}
	for _, name := range wanted {
		name, optional := strings.CutPrefix(name, "-")
		if err := l.add(name, optional); err != nil {
			return err
		}
	}
	a.file("lib/modules/load", 0o644, l.list.Bytes())
	return nil
}

// findModules maps names, written as the kernel writes them, to files.
func findModules(kernel string) (map[string]string, error) {
	found := map[string]string{}
	err := filepath.WalkDir(filepath.Join(kernel, "lib", "modules"), func(path string, d fs.DirEntry, err error) error {
		if base, _, ok := strings.Cut(filepath.Base(path), ".ko"); err == nil && ok && !d.IsDir() {
			found[canonical(base)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for modules: %w", err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("looking for modules: none under %s", kernel)
	}
	return found, nil
}

func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

type loader struct {
	found   map[string]string
	archive archive
	done    map[string]bool
	list    bytes.Buffer
}

func (l *loader) add(name string, optional bool) error {
	name = canonical(name)
	if l.done[name] {
		return nil
	}
	l.done[name] = true
	path, ok := l.found[name]
	if !ok {
		return fmt.Errorf("the kernel package has no module %s", name)
	}
	image, err := unpack(path)
	if err != nil {
		return fmt.Errorf("reading module %s: %w", name, err)
	}
	needs, err := dependencies(image)
	if err != nil {
		return fmt.Errorf("reading module %s: %w", name, err)
	}
	for _, n := range needs {
		if err := l.add(n, optional); err != nil {
			return err
		}
	}
	target := "lib/modules/" + name + ".ko"
	l.archive.file(target, 0o644, image)
	if optional {
		l.list.WriteByte('-')
	}
	fmt.Fprintf(&l.list, "/%s\n", target)
	return nil
}

// unpack returns the module as the kernel wants it: Debian compresses modules, and the initrd is
// compressed as a whole, which is smaller.
func unpack(path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		return os.ReadFile(path)
	}
	return exec.Command("xz", "-dc", "--", path).Output() //nolint:noctx // seconds, and ends with this program
}

// dependencies reads "depends=a,b" from the module's own description.
func dependencies(image []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("it describes nothing")
	}
	text, err := section.Data()
	if err != nil {
		return nil, err
	}
	for _, line := range bytes.Split(text, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
