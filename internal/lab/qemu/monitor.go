package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
)

// monitor speaks QEMU's control protocol (QMP): one greeting, then one answer per
// command, with events in between.
type monitor struct {
	conn    net.Conn
	answers chan message
	ended   chan struct{}
	turn    sync.Mutex // one command at a time
	last    uint64     // id of the latest command; guarded by turn
}

type message struct {
	Greeting json.RawMessage `json:"QMP"`
	ID       uint64          `json:"id"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

var errMonitorClosed = errors.New("the control socket closed")

func newMonitor(f *os.File) (*monitor, error) {
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	m := &monitor{conn: conn, answers: make(chan message, 1), ended: make(chan struct{})}
	go m.read()
	return m, nil
}

// read drops events, and answers that nobody awaits any more: QEMU never blocks on
// a full socket.
func (m *monitor) read() {
	defer close(m.ended)
	for in := json.NewDecoder(m.conn); ; {
		var msg message
		if err := in.Decode(&msg); err != nil {
			return
		}
		if msg.Event != "" {
			continue
		}
		select {
		case <-m.answers: // the answer to a command that gave up
		default:
		}
		m.answers <- msg
	}
}

func (m *monitor) negotiate(ctx context.Context) error {
	if _, err := m.await(ctx, 0); err != nil {
		return fmt.Errorf("awaiting its greeting: %w", err)
	}
	return m.execute(ctx, "qmp_capabilities")
}

func (m *monitor) execute(ctx context.Context, command string) error {
	m.turn.Lock()
	defer m.turn.Unlock()
	m.last++
	line, err := json.Marshal(map[string]any{"execute": command, "id": m.last})
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	answer, err := m.await(ctx, m.last)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("%s: %s: %s", command, answer.Error.Class, answer.Error.Desc)
	}
	return nil
}

// await returns the message with this id; the greeting has none, which reads as 0.
func (m *monitor) await(ctx context.Context, id uint64) (message, error) {
	for {
		select {
		case msg := <-m.answers:
			if msg.ID == id {
				return msg, nil
			}
		case <-m.ended:
			return message{}, errMonitorClosed
		case <-ctx.Done():
			return message{}, ctx.Err()
		}
	}
}

func (m *monitor) close() { _ = m.conn.Close() }
