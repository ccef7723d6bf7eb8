package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/guest/luks"
	"github.com/eosc-siesta/siestad/internal/guest/machine"
)

// DiskVolume is the real data volume of a guest that is process 1.
type DiskVolume struct {
	Tools luks.Tools
	open  *luks.Volume
}

const (
	mapping      = "siesta-data"
	diskPatience = 30 * time.Second
	journalName  = "siesta-boots"
	maxJournal   = 1 << 20
)

// Initialise formats.
func (d *DiskVolume) Initialise(ctx context.Context, s door.Sealed) (string, error) {
	return d.with(ctx, s.VolumeSerial, func(disk string) (*luks.Volume, error) {
		return luks.Format(ctx, d.Tools, disk, mapping, s.LUKSKey, s.HeaderMACKey)
	})
}

// Open opens.
func (d *DiskVolume) Open(ctx context.Context, s door.Sealed) (string, error) {
	return d.with(ctx, s.VolumeSerial, func(disk string) (*luks.Volume, error) {
		return luks.Open(ctx, d.Tools, disk, mapping, s.LUKSKey, s.HeaderMACKey, s.HeaderHash)
	})
}

func (d *DiskVolume) with(ctx context.Context, serial string, fn func(disk string) (*luks.Volume, error)) (string, error) {
	search, cancel := context.WithTimeout(ctx, diskPatience)
	disk, err := machine.Disk(search, "/sys", serial)
	cancel()
	if err != nil {
		return "", err
	}
	v, err := fn(disk)
	if err != nil {
		return "", err
	}
	d.open = v
	return v.Header.Hash(), nil
}

// Mount mounts and writes this boot into the journal on the volume.
func (d *DiskVolume) Mount(b Boot) (string, error) {
	if err := machine.MountData(d.open.Path); err != nil {
		return "", err
	}
	return journal(machine.DataDir, b)
}

// Close unmounts and closes.
func (d *DiskVolume) Close(ctx context.Context) error {
	if d.open == nil {
		return nil
	}
	if err := machine.UnmountData(); err != nil {
		return err
	}
	if err := d.open.Close(ctx); err != nil {
		return err
	}
	d.open = nil
	return nil
}

// journal appends one line per boot to a file on the encrypted volume: number, generation, time. It tells
// a person that the disk she sees is the disk she had. A line that a power cut tore
// has no newline and is dropped.
func journal(dir string, b Boot) (string, error) {
	path := filepath.Join(dir, journalName)
	info, err := os.Lstat(path)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxJournal) {
		return "", fmt.Errorf("reading the journal of boots: %s is not a journal", path)
	}
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading the journal of boots: %w", err)
	}
	whole := string(text[:strings.LastIndexByte(string(text), '\n')+1])
	n, first := 0, ""
	for line := range strings.Lines(whole) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		if n, err = strconv.Atoi(f[0]); err != nil {
			return "", fmt.Errorf("reading the journal of boots: a line has no number")
		}
		if first == "" {
			first = f[2]
		}
	}
	n++
	at := door.FormatTime(b.At)
	if first == "" {
		first = at
	}
	whole += fmt.Sprintf("%d %d %s\n", n, b.Generation, at)
	if err := replace(dir, path, whole); err != nil {
		return "", fmt.Errorf("writing the journal of boots: %w", err)
	}
	return fmt.Sprintf("boot %d of this volume; first written %s", n, first), nil
}

// replace writes a file so that a power cut leaves the old one or the new one.
func replace(dir, path, text string) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
