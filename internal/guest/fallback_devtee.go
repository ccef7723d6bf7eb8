//go:build devtee

package guest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/eosc-siesta/siestad/internal/door"
)

// portReporter asks the simulated processor on the host, over the virtio-serial port that Nova
// makes for a guest agent. One line of JSON each way. It exists in development
// builds only, and what it brings back passes only under roots that such builds name.
type portReporter struct{ device string }

const (
	portName     = "org.qemu.guest_agent.0"
	portPatience = 60 * time.Second // the host may attach only after the guest has booted
	maxPortLine  = 64 << 10
)

func fallbackReporter() (Reporter, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		if text, err := os.ReadFile(n); err == nil && strings.TrimSpace(string(text)) == portName {
			return portReporter{device: "/dev/" + filepath.Base(filepath.Dir(n))}, nil
		}
	}
	return nil, ErrNoReporter
}

func (r portReporter) String() string { return "SIMULATED processor on the host (development build)" }

func (r portReporter) Report(ctx context.Context, data [64]byte) (door.Evidence, error) {
	ctx, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	fd, err := unix.Open(r.device, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return door.Evidence{}, fmt.Errorf("asking the simulated processor: %w", err)
	}
	defer unix.Close(fd)
	question, err := json.Marshal(map[string]string{"report_data": hex.EncodeToString(data[:])})
	if err != nil {
		return door.Evidence{}, fmt.Errorf("asking the simulated processor: %w", err)
	}
	if err := sendAll(ctx, fd, append(question, '\n')); err != nil {
		return door.Evidence{}, fmt.Errorf("asking the simulated processor: %w", err)
	}
	for {
		line, err := readLine(ctx, fd)
		if err != nil {
			return door.Evidence{}, fmt.Errorf("hearing the simulated processor: %w", err)
		}
		var answer struct {
			Report []byte `json:"report"`
			Certs  []byte `json:"certs"`
			Error  string `json:"error"`
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return door.Evidence{}, errors.New("hearing the simulated processor: not the JSON expected here")
		}
		if answer.Error != "" {
			return door.Evidence{}, fmt.Errorf("the simulated processor refuses: %.200q", answer.Error)
		}
		// An answer to a question of an earlier boot may still be in the port.
		const dataAt = 0x50
		if len(answer.Report) == snpReportSize && bytes.Equal(answer.Report[dataAt:dataAt+64], data[:]) {
			return door.Evidence{TEE: "sev-snp", Report: answer.Report, Certificates: answer.Certs}, nil
		}
	}
}

func sendAll(ctx context.Context, fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if n > 0 {
			b = b[n:]
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return err
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

func readLine(ctx context.Context, fd int) ([]byte, error) {
	var line []byte
	buf := make([]byte, 4096)
	for {
		// Nothing on the other side reads as an end of file, and may change.
		n, err := unix.Read(fd, buf)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		if n > 0 {
			line = append(line, buf[:n]...)
			if i := bytes.IndexByte(line, '\n'); i >= 0 {
				return line[:i], nil
			}
			if len(line) > maxPortLine {
				return nil, errors.New("the answer is too long")
			}
			continue
		}
		if err := pause(ctx); err != nil {
			return nil, err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return errors.New("nobody answers on the port")
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}
