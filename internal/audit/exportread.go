package audit

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const (
	maxExportLine  = 64 << 10 // a batch of 1,024 leaf hashes, and room
	maxExportEntry = 32 << 10 // what the schema allows
)

// exportReader reads an export piece by piece, each piece bounded.
type exportReader struct {
	in   *bufio.Reader
	body []byte
}

func newExportReader(r io.Reader) *exportReader {
	return &exportReader{in: bufio.NewReaderSize(r, maxExportLine)}
}

var errTruncated = errors.New("the export is cut off")

func (r *exportReader) line() (string, error) {
	line, err := r.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", errors.New("the export has a line that is too long")
	case errors.Is(err, io.EOF):
		return "", errTruncated
	case err != nil:
		return "", fmt.Errorf("reading the export: %w", err)
	}
	return string(line[:len(line)-1]), nil
}

func (r *exportReader) expect(want string) error {
	line, err := r.line()
	if err != nil {
		return err
	}
	if line != want {
		return fmt.Errorf("the export has %.80q where %q belongs", line, want)
	}
	return nil
}

func (r *exportReader) end() error {
	if _, err := r.in.ReadByte(); err == nil {
		return errors.New("the export goes on after its end")
	} else if !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the export: %w", err)
	}
	return nil
}

// skipTo returns the next line with a prefix. It passes over the bytes of
// entries and checkpoints by their announced length.
func (r *exportReader) skipTo(prefix string) (string, error) {
	for {
		line, err := r.line()
		if err != nil || strings.HasPrefix(line, prefix) {
			return line, err
		}
		word, rest, _ := strings.Cut(line, " ")
		if word != "entry" && word != "checkpoint" {
			continue
		}
		numbers, err := parseNumbers(rest)
		if err != nil || numbers[1] > maxExportEntry {
			return "", errTruncated
		}
		if _, err := r.in.Discard(int(numbers[1]) + 1); err != nil {
			return "", errTruncated
		}
	}
}

// bytes returns a string of n bytes and the newline behind it. It is valid
// until the next call.
func (r *exportReader) bytes(n int64, limit int) ([]byte, error) {
	if n > int64(limit) {
		return nil, fmt.Errorf("the export announces %d bytes where %d is the limit", n, limit)
	}
	if int64(cap(r.body)) < n+1 {
		r.body = make([]byte, n+1)
	}
	r.body = r.body[:n+1]
	if _, err := io.ReadFull(r.in, r.body); err != nil {
		return nil, errTruncated
	}
	if r.body[n] != '\n' {
		return nil, errors.New("the export has bytes of another length than announced")
	}
	return r.body[:n], nil
}

// entry reads the entry that must come next.
func (r *exportReader) entry(index int64) ([]byte, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutPrefix(line, "entry ")
	if !ok {
		return nil, bad(index, "the entry is missing")
	}
	numbers, err := parseNumbers(rest)
	if err != nil {
		return nil, err
	}
	switch {
	case numbers[0] > index:
		return nil, bad(index, "the entry is missing: entry %d comes instead", numbers[0])
	case numbers[0] < index:
		return nil, bad(numbers[0], "there is an entry that does not belong here")
	}
	return r.bytes(numbers[1], maxExportEntry)
}

func (r *exportReader) checkpoint(size int64) ([]byte, error) {
	line, err := r.line()
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(line, "entry ") {
		return nil, bad(size, "there is an entry that does not belong here")
	}
	rest, ok := strings.CutPrefix(line, "checkpoint ")
	if !ok {
		return nil, fmt.Errorf("the export has no checkpoint of size %d", size)
	}
	numbers, err := parseNumbers(rest)
	if err != nil {
		return nil, err
	}
	return r.bytes(numbers[1], maxCheckpoint)
}

func parseBatchLine(line string) (first, count int64, leaves []byte, err error) {
	fields := strings.Split(line, " ")
	if len(fields) != 4 {
		return 0, 0, nil, errors.New("the export has a malformed batch line")
	}
	numbers, err := parseNumbers(fields[1] + " " + fields[2])
	if err != nil {
		return 0, 0, nil, err
	}
	if numbers[1] > maxBatch {
		return 0, 0, nil, fmt.Errorf("the export has a batch of %d entries, more than %d", numbers[1], maxBatch)
	}
	if leaves, err = base64.StdEncoding.Strict().DecodeString(fields[3]); err != nil {
		return 0, 0, nil, errors.New("the export has a batch line without leaf hashes")
	}
	return numbers[0], numbers[1], leaves, nil
}

func parseTileLine(line string) (tileKey, []byte, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 4 {
		return tileKey{}, nil, errors.New("the export has a malformed tile line")
	}
	numbers, err := parseNumbers(fields[1] + " " + fields[2])
	if err != nil {
		return tileKey{}, nil, err
	}
	data, err := base64.StdEncoding.Strict().DecodeString(fields[3])
	if err != nil || len(data) != tileWidth*tlog.HashSize || numbers[0] >= tileLevels {
		return tileKey{}, nil, errors.New("the export has a malformed tile line")
	}
	return tileKey{int(numbers[0]), numbers[1]}, data, nil
}

// parseNumbers reads two canonical numbers below 2^56, the largest tree.
func parseNumbers(text string) (out [2]int64, err error) {
	fields := strings.Split(text, " ")
	if len(fields) != len(out) {
		return out, errors.New("the export has a malformed line")
	}
	for i, field := range fields {
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil || v < 0 || v >= 1<<56 || strconv.FormatInt(v, 10) != field {
			return out, errors.New("the export has a malformed number")
		}
		out[i] = v
	}
	return out, nil
}
