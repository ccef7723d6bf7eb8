package machine

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	evKey    = 1
	keyPower = 116
	// EVIOCGBIT(EV_KEY, 96): which keys a device has.
	eviocgbitKeys = 2<<30 | 96<<16 | 'E'<<8 | 0x20 + evKey
	eventSize     = 24
)

// PowerButton returns a channel that receives once the ACPI power button is pressed.
// Nova's stop and delete press it and wait.
func PowerButton() (<-chan struct{}, error) {
	paths, err := filepath.Glob("/dev/input/event*")
	if err != nil {
		return nil, fmt.Errorf("finding the power button: %w", err)
	}
	pressed := make(chan struct{}, 1)
	found := 0
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening %s: %w", path, err)
		}
		if !hasPowerKey(f) {
			_ = f.Close()
			continue
		}
		found++
		go watch(f, pressed)
	}
	if found == 0 {
		return nil, fmt.Errorf("finding the power button: none among %d input devices", len(paths))
	}
	return pressed, nil
}

func hasPowerKey(f *os.File) bool {
	var keys [96]byte
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), eviocgbitKeys, uintptr(unsafe.Pointer(&keys))) //nolint:gosec // an ioctl that fills keys
	return errno == 0 && keys[keyPower/8]&(1<<(keyPower%8)) != 0
}

func watch(f *os.File, pressed chan<- struct{}) {
	defer f.Close()
	var buf [64 * eventSize]byte
	for {
		n, err := f.Read(buf[:])
		if err != nil {
			return
		}
		for e := buf[:n]; len(e) >= eventSize; e = e[eventSize:] {
			if isPress(e[:eventSize]) {
				select {
				case pressed <- struct{}{}:
				default:
				}
			}
		}
	}
}

// isPress reads one struct input_event: 16 bytes of time, type, code, value.
func isPress(e []byte) bool {
	le := binary.LittleEndian
	return le.Uint16(e[16:]) == evKey && le.Uint16(e[18:]) == keyPower && le.Uint32(e[20:]) == 1
}
