//go:build devtee

// Package port is the host's end of the port over which a guest asks simulated hardware for evidence: one line of JSON each
// way. It is compiled into development builds only. Nothing that a guest says but its report data goes any further.
package port

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxRequest bounds a line from the guest: a request has fewer than 160 bytes.
const maxRequest = 4096

type request struct {
	ReportData string `json:"report_data"`
}

// Answer is what the guest hears. An empty TEE is SEV-SNP.
type Answer struct {
	TEE      string `json:"tee,omitempty"`
	Report   []byte `json:"report,omitempty"`
	Certs    []byte `json:"certs,omitempty"`
	EventLog []byte `json:"event_log,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Serve answers requests, one JSON document a line, until the other side closes. A request that cannot be met is answered
// with an error.
func Serve(conn io.ReadWriter, report func(data [64]byte) (Answer, error)) error {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, maxRequest), maxRequest)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		a, err := read(lines.Bytes(), report)
		if err != nil {
			a = Answer{Error: err.Error()}
		}
		out, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("answering report request: %w", err)
		}
		if _, err := conn.Write(append(out, '\n')); err != nil {
			return fmt.Errorf("answering report request: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading report request: %w", err)
	}
	return nil
}

func read(line []byte, report func(data [64]byte) (Answer, error)) (Answer, error) {
	var req request
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&req); err != nil {
		return Answer{}, errors.New("the request is not a JSON document of the known form")
	}
	data, err := hex.DecodeString(req.ReportData)
	if err != nil || len(data) != 64 {
		return Answer{}, errors.New("report_data is not 64 bytes in hex")
	}
	return report([64]byte(data))
}
