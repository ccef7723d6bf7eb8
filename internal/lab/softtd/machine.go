//go:build devtee

package softtd

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/eosc-siesta/siestad/internal/attest"
	"github.com/eosc-siesta/siestad/internal/lab/port"
)

// ErrEnded says that this launch is over: a guest that boots again is a new one.
var ErrEnded = errors.New("this launch has ended")

// Machine is one launch of a trust domain; a guest that boots again is another Machine.
type Machine struct {
	platform *Platform
	measure  func() (Boot, error)

	mu    sync.Mutex
	taken bool
	boot  Boot
	ended bool
}

// Launch begins a launch. The callback says what the hypervisor was really given; it is asked once, at the first quote, and
// the answer holds for the life of the machine, as measurements do.
func (p *Platform) Launch(measure func() (Boot, error)) *Machine {
	return &Machine{platform: p, measure: measure}
}

// End closes the launch: no more quotes are signed for it.
func (m *Machine) End() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
}

func (m *Machine) measured() (Boot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return Boot{}, ErrEnded
	}
	if !m.taken {
		boot, err := m.measure()
		if err != nil {
			return Boot{}, fmt.Errorf("measuring launch: %w", err)
		}
		m.boot, m.taken = boot, true
	}
	return m.boot, nil
}

// Quote signs a quote over the guest's report data; the log gives its registers.
func (m *Machine) Quote(reportData [64]byte) (quote, log []byte, err error) {
	boot, err := m.measured()
	if err != nil {
		return nil, nil, err
	}
	log, rtmrs := boot.EventLog()
	quote, err = m.platform.Sign(Quote{MRTD: boot.MRTD, RTMRs: rtmrs, ReportData: reportData})
	return quote, log, err
}

// Serve answers the guest's requests until the other side closes.
func (m *Machine) Serve(conn io.ReadWriter) error {
	return port.Serve(conn, func(data [64]byte) (port.Answer, error) {
		quote, log, err := m.Quote(data)
		return port.Answer{TEE: string(attest.TDX), Report: quote, EventLog: log}, err
	})
}

// Serve is Launch and Machine.Serve for a connection that lives as long as the guest: one connection, one launch.
func (p *Platform) Serve(conn io.ReadWriter, measure func() (Boot, error)) error {
	m := p.Launch(measure)
	defer m.End()
	return m.Serve(conn)
}
