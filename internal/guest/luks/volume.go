package luks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/eosc-siesta/siestad/internal/door"
)

// Tools says where the programs are and where memory-backed files go.
type Tools struct {
	Cryptsetup string
	Mke2fs     string
	Dir        string // on tmpfs: header copies never touch a disk
}

// Volume is one opened volume.
type Volume struct {
	Header *Header
	Path   string // of the plain block device
	name   string
	tools  Tools
}

// Format makes a new volume on the device and leaves it open. Whatever was there is lost. When
// it returns, the file system and then the header are on the disk.
func Format(ctx context.Context, t Tools, device, name string, key, macKey door.Secret) (*Volume, error) {
	header, err := t.newHeader(ctx, device, key, macKey)
	if err != nil {
		return nil, err
	}
	// The old header goes first, so that a power cut from here on leaves a disk
	// without one.
	if err := writeAt(device, make([]byte, DataOffset), 0); err != nil {
		return nil, fmt.Errorf("clearing the header: %w", err)
	}
	v, err := t.activate(ctx, header, device, name, key)
	if err != nil {
		return nil, err
	}
	if err := t.run(ctx, t.Mke2fs, nil, "-q", "-F", "-t", "ext4", "-b", "4096",
		"-E", "lazy_itable_init=1,lazy_journal_init=0,nodiscard", "-L", "siesta-data", v.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("making the file system: %w", err), v.Close(context.WithoutCancel(ctx)))
	}
	if err := flush(v.Path); err != nil {
		return nil, errors.Join(fmt.Errorf("making the file system: %w", err), v.Close(context.WithoutCancel(ctx)))
	}
	if err := writeAt(device, append(bytes.Clone(header.region), seal(header.region, macKey)...), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the header: %w", err), v.Close(context.WithoutCancel(ctx)))
	}
	return v, nil
}

// Open opens a volume whose header is authentic, is the one on record, and has the
// only shape that is accepted.
func Open(ctx context.Context, t Tools, device, name string, key, macKey door.Secret, wantHash string) (*Volume, error) {
	disk, err := os.Open(device)
	if err != nil {
		return nil, fmt.Errorf("opening the data disk: %w", err)
	}
	header, err := ReadHeader(disk, macKey, wantHash)
	_ = disk.Close()
	if err != nil {
		return nil, err
	}
	return t.activate(ctx, header, device, name, key)
}

// Close takes the key out of the kernel. The file system must not be mounted.
func (v *Volume) Close(ctx context.Context) error {
	if err := v.tools.run(ctx, v.tools.Cryptsetup, nil, "close", "--disable-locks", v.name); err != nil {
		return fmt.Errorf("closing the volume: %w", err)
	}
	return nil
}

// newHeader lets cryptsetup write a header to a file in memory and judges it. The device is
// only asked for its size.
func (t Tools) newHeader(ctx context.Context, device string, key, macKey door.Secret) (*Header, error) {
	if len(key) != door.LUKSKeySize || len(macKey) != door.HeaderMACKeySize {
		return nil, errors.New("formatting: the grant names no key of the right size")
	}
	path := filepath.Join(t.Dir, "new-header")
	if err := os.WriteFile(path, make([]byte, HeaderSize), 0o600); err != nil {
		return nil, fmt.Errorf("formatting: %w", err)
	}
	defer os.Remove(path)
	err := t.run(ctx, t.Cryptsetup, key, "luksFormat", "--batch-mode", "--disable-locks", "--type", "luks2",
		"--header", path, "--offset", strconv.Itoa(DataOffset/512),
		"--cipher", cipher, "--key-size", "512", "--hash", "sha256", "--sector-size", strconv.Itoa(sectorSize),
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", strconv.Itoa(iterations),
		"--luks2-metadata-size", strconv.Itoa(metadataSize), "--luks2-keyslots-size", strconv.Itoa(keyslotsSize),
		"--key-file", "-", "--keyfile-size", strconv.Itoa(len(key)), device)
	if err != nil {
		return nil, fmt.Errorf("formatting: %w", err)
	}
	region, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("formatting: %w", err)
	}
	if err := judge(region); err != nil {
		return nil, fmt.Errorf("formatting: cryptsetup made a header of another shape: %w", err)
	}
	return &Header{region: region}, nil
}

// activate opens the data with the judged copy; cryptsetup never sees the disk's own
// header.
func (t Tools) activate(ctx context.Context, h *Header, device, name string, key door.Secret) (*Volume, error) {
	path := filepath.Join(t.Dir, "header")
	if err := os.WriteFile(path, h.region, 0o600); err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	defer os.Remove(path)
	err := t.run(ctx, t.Cryptsetup, key, "open", "--batch-mode", "--disable-locks", "--type", "luks2", "--header", path,
		"--key-slot", "0", "--key-file", "-", "--keyfile-size", strconv.Itoa(len(key)), device, name)
	if err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	return &Volume{Header: h, Path: "/dev/mapper/" + name, name: name, tools: t}, nil
}

// run starts one program with nothing of ours in its environment; a key goes through
// its standard input.
func (t Tools) run(ctx context.Context, program string, key door.Secret, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DM_DISABLE_UDEV=1"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if key != nil {
		cmd.Stdin = bytes.NewReader(key)
	}
	if err := cmd.Run(); err != nil {
		words := strings.Join(strings.Fields(out.String()), " ")
		return fmt.Errorf("%s: %w: %.300s", filepath.Base(program), err, words)
	}
	return nil
}

func writeAt(path string, b []byte, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, at)
	return errors.Join(err, f.Sync(), f.Close())
}

func flush(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
