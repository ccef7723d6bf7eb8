package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxDocument is what the service takes of one request. It is refused here before all of it is sent there.
const maxDocument = 256 << 10

// readDocument reads a file of at most limit bytes that is to be sent whole; what says what it should hold.
func readDocument(what, name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("reading %s: %s has more than the %d bytes that the service takes\n  next: see that it is the right file", what, name, limit)
	}
	return body, nil
}

// readJSON reads a file of one JSON text, and says where it stops being one.
func readJSON(what, name string) (json.RawMessage, error) {
	body, err := readDocument(what, name, maxDocument)
	if err != nil {
		return nil, err
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(body, new(any)); errors.As(err, &syntax) {
		line := 1 + bytes.Count(body[:min(syntax.Offset, int64(len(body)))], []byte("\n"))
		return nil, fmt.Errorf("reading %s: %s is not JSON: line %d: %w", what, name, line, err)
	} else if err != nil {
		return nil, fmt.Errorf("reading %s: %s: %w", what, name, err)
	}
	return body, nil
}
