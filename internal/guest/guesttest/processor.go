package guesttest

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"net"

	"github.com/eosc-siesta/siestad/internal/door"
)

const snpReportSize = 1184

// Report is bytes of the size of an SNP report with the data in their place and nothing else.
func Report(data [64]byte) []byte {
	report := make([]byte, snpReportSize)
	copy(report[reportDataAt:], data[:])
	return report
}

// Processor is a Reporter whose reports only this package's broker takes.
type Processor struct{}

func (Processor) String() string { return "the processor of a test" }

// Report implements the guest's Reporter.
func (Processor) Report(_ context.Context, data [64]byte) (door.Evidence, error) {
	return door.Evidence{TEE: "sev-snp", Report: Report(data)}, nil
}

// ServeProcessor answers on the socket of a guest's virtio-serial port until the guest ends.
func ServeProcessor(ctx context.Context, socket string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	for in := bufio.NewScanner(conn); in.Scan(); {
		var question struct {
			ReportData string `json:"report_data"`
		}
		answer := map[string]any{"error": "not a question"}
		if json.Unmarshal(in.Bytes(), &question) == nil {
			if b, err := hex.DecodeString(question.ReportData); err == nil && len(b) == 64 {
				answer = map[string]any{"report": Report([64]byte(b)), "certs": []byte{}}
			}
		}
		line, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		if _, err := conn.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return nil
}
