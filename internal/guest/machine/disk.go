package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Block is a block device as the kernel lists it.
type Block struct {
	Name   string
	Serial string
}

// Blocks lists the virtio disks under a /sys, in name order.
func Blocks(sys string) ([]Block, error) {
	entries, err := os.ReadDir(filepath.Join(sys, "block"))
	if err != nil {
		return nil, fmt.Errorf("listing disks: %w", err)
	}
	var out []Block
	for _, e := range entries {
		serial, err := os.ReadFile(filepath.Join(sys, "block", e.Name(), "serial"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading the serial of %s: %w", e.Name(), err)
		}
		out = append(out, Block{Name: e.Name(), Serial: strings.TrimRight(string(serial), "\n\x00 ")})
	}
	return out, nil
}

// Disk waits for the one disk with this serial. Two are refused: the host decides
// what it shows, the guest does not choose for it.
func Disk(ctx context.Context, sys, serial string) (string, error) {
	if serial == "" {
		return "", errors.New("finding the data disk: no serial")
	}
	for {
		blocks, err := Blocks(sys)
		if err != nil {
			return "", err
		}
		var found []string
		for _, b := range blocks {
			if b.Serial == serial {
				found = append(found, "/dev/"+b.Name)
			}
		}
		switch {
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			return "", fmt.Errorf("finding the data disk: %d disks have the serial %s", len(found), serial)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("finding the data disk: none of %d disks has the serial %s", len(blocks), serial)
		case <-time.After(200 * time.Millisecond): // a disk may be plugged while the guest boots
		}
	}
}
