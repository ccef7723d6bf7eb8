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
	return ask(ctx, fd, data)
}

func ask(ctx context.Context, fd int, data [64]byte) (door.Evidence, error) {
	question, err := json.Marshal(map[string]string{"report_data": hex.EncodeToString(data[:])})
	if err != nil {
		return door.Evidence{}, fmt.Errorf("asking the simulated processor: %w", err)
	}
	if err := sendAll(ctx, fd, append(question, '\n')); err != nil {
		return door.Evidence{}, fmt.Errorf("asking the simulated processor: %w", err)
	}
	lines := lineReader{fd: fd}
	for {
		line, err := lines.next(ctx)
		if err != nil {
			return door.Evidence{}, fmt.Errorf("hearing the simulated processor: %w", err)
		}
		var answer struct {
			TEE      string `json:"tee"`
			Report   []byte `json:"report"`
			Certs    []byte `json:"certs"`
			EventLog []byte `json:"event_log"`
			Error    string `json:"error"`
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return door.Evidence{}, errors.New("hearing the simulated processor: not the JSON expected here")
		}
		if answer.Error != "" {
			return door.Evidence{}, fmt.Errorf("the simulated processor refuses: %.200q", answer.Error)
		}
		// An answer to a question of an earlier boot may still be in the port.
		ev := door.Evidence{TEE: answer.TEE, Report: answer.Report, Certificates: answer.Certs, EventLog: answer.EventLog}
		if ev.TEE == "" {
			ev.TEE = "sev-snp"
		}
		if bytes.Equal(boundTo(ev), data[:]) {
			return ev, nil
		}
	}
}

// boundTo is the report data of evidence; nil where its form is not known.
func boundTo(ev door.Evidence) []byte {
	const (
		snpDataAt   = 0x50
		quoteDataAt = 0x30 + 0x208 // behind the header and, in version 5, a descriptor of the body
		descriptor  = 6
	)
	at := 0
	switch {
	case ev.TEE == "sev-snp" && len(ev.Report) == snpReportSize:
		at = snpDataAt
	case ev.TEE == "tdx" && bytes.HasPrefix(ev.Report, []byte{4, 0}):
		at = quoteDataAt
	case ev.TEE == "tdx" && bytes.HasPrefix(ev.Report, []byte{5, 0}):
		at = quoteDataAt + descriptor
	}
	if at == 0 || len(ev.Report) < at+64 {
		return nil
	}
	return ev.Report[at : at+64]
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

// lineReader keeps what one read brought behind a line: two answers may come at once.
type lineReader struct {
	fd   int
	rest []byte
}

func (l *lineReader) next(ctx context.Context) ([]byte, error) {
	buf := make([]byte, 4096)
	for {
		if line, behind, ok := bytes.Cut(l.rest, []byte{'\n'}); ok {
			l.rest = behind
			return line, nil
		}
		if len(l.rest) > maxPortLine {
			return nil, errors.New("the answer is too long")
		}
		// Nothing on the other side reads as an end of file, and may change.
		n, err := unix.Read(l.fd, buf)
		if n > 0 {
			l.rest = append(l.rest, buf[:n]...)
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, err
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
