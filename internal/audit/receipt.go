package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

// Receipt proves that an entry is in the log, to anyone who has the log's key.
type Receipt struct {
	Index int64
	Proof string // C2SP tlog-proof: index, inclusion proof, checkpoint
}

const (
	receiptHeader = "c2sp.org/tlog-proof@v1"
	maxReceipt    = 16 << 10
	maxProof      = 63 // hashes in a proof of the largest tree
)

func formatReceipt(index int64, proof tlog.RecordProof, checkpoint []byte) Receipt {
	var b strings.Builder
	b.Grow(64 + 45*len(proof) + len(checkpoint))
	fmt.Fprintf(&b, "%s\nindex %d\n", receiptHeader, index)
	for _, hash := range proof {
		b.WriteString(hash.String())
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	b.Write(checkpoint)
	return Receipt{index, b.String()}
}

// parsedReceipt is a receipt that has been read and not yet believed.
type parsedReceipt struct {
	index      int64
	proof      tlog.RecordProof
	checkpoint []byte
}

func parseReceipt(text []byte) (parsedReceipt, error) {
	var p parsedReceipt
	if len(text) > maxReceipt {
		return p, fmt.Errorf("reading receipt: more than %d bytes", maxReceipt)
	}
	head, checkpoint, ok := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	if !ok || len(lines) < 2 || lines[0] != receiptHeader {
		return p, fmt.Errorf("reading receipt: it does not begin with %q", receiptHeader)
	}
	lines = lines[1:]
	if strings.HasPrefix(lines[0], "extra ") { // allowed by the format, and of no use here
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return p, errors.New("reading receipt: no index")
	}
	number, ok := strings.CutPrefix(lines[0], "index ")
	index, err := strconv.ParseInt(number, 10, 64)
	if !ok || err != nil || index < 0 || strconv.FormatInt(index, 10) != number {
		return p, errors.New("reading receipt: index is not a number")
	}
	hashes, err := parseHashes(lines[1:])
	if err != nil {
		return p, fmt.Errorf("reading receipt: %w", err)
	}
	return parsedReceipt{index, hashes, []byte(checkpoint)}, nil
}

func parseHashes(lines []string) ([]tlog.Hash, error) {
	if len(lines) > maxProof {
		return nil, fmt.Errorf("%d hashes are more than any tree needs", len(lines))
	}
	hashes := make([]tlog.Hash, 0, len(lines))
	for i, line := range lines {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return nil, fmt.Errorf("line %d of the proof is not a hash", i+1)
		}
		hashes = append(hashes, tlog.Hash(raw))
	}
	return hashes, nil
}

// Receipt verifies a receipt for the entry whose stored bytes are given, and
// returns the entry's index and the checkpoint it stands under.
func (v Verifier) Receipt(text, entry []byte) (int64, Checkpoint, error) {
	p, err := parseReceipt(text)
	if err != nil {
		return 0, Checkpoint{}, err
	}
	c, err := v.Checkpoint(p.checkpoint)
	if err != nil {
		return 0, Checkpoint{}, fmt.Errorf("verifying receipt: %w", err)
	}
	if p.index >= c.Size {
		return 0, Checkpoint{}, fmt.Errorf("verifying receipt: index %d is not under a head of size %d", p.index, c.Size)
	}
	if err := tlog.CheckRecord(p.proof, c.Size, c.Root, p.index, tlog.RecordHash(entry)); err != nil {
		return 0, Checkpoint{}, fmt.Errorf("verifying receipt: entry %d: %w", p.index, err)
	}
	return p.index, c, nil
}

// ReceiptCheckpoint verifies the checkpoint within a receipt and returns the
// index it claims; without the entry's bytes the proof itself proves nothing.
func (v Verifier) ReceiptCheckpoint(text []byte) (int64, Checkpoint, error) {
	p, err := parseReceipt(text)
	if err != nil {
		return 0, Checkpoint{}, err
	}
	c, err := v.Checkpoint(p.checkpoint)
	if err != nil {
		return 0, Checkpoint{}, fmt.Errorf("verifying receipt: %w", err)
	}
	if p.index >= c.Size {
		return 0, Checkpoint{}, fmt.Errorf("verifying receipt: index %d is not under a head of size %d", p.index, c.Size)
	}
	return p.index, c, nil
}
