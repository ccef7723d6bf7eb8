package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxConfigBytes bounds the file before it is parsed.
const maxConfigBytes = 1 << 20

// fault is one thing wrong with the configuration, where it stands, and what to do.
type fault struct {
	line int // 0: nowhere in particular
	text string
}

// faults is all that is wrong, in the order of the file.
type faults struct {
	file string
	list []fault
}

func (f *faults) Error() string {
	slices.SortStableFunc(f.list, func(a, b fault) int { return a.line - b.line })
	var b strings.Builder
	for i, one := range f.list {
		if i > 0 {
			b.WriteByte('\n')
		}
		if one.line > 0 {
			fmt.Fprintf(&b, "%s:%d: %s", f.file, one.line, one.text)
		} else {
			fmt.Fprintf(&b, "%s: %s", f.file, one.text)
		}
	}
	return b.String()
}

// loadConfig reads, decodes and checks the file. The error of a bad one names every fault with its line.
func loadConfig(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	if len(data) > maxConfigBytes {
		return nil, fmt.Errorf("reading configuration %s: more than %d bytes", path, maxConfigBytes)
	}
	found := &faults{file: path}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return nil, &faults{file: path, list: []fault{yamlFault(err.Error())}}
	}
	var c Config
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	err = dec.Decode(&c)
	var wrong *yaml.TypeError
	switch {
	case errors.Is(err, io.EOF):
		found.list = append(found.list, fault{text: "the file is empty; docs/configuration.md has one to start from"})
		return nil, found
	case errors.As(err, &wrong):
		for _, text := range wrong.Errors {
			found.list = append(found.list, yamlFault(text))
		}
	case err != nil:
		found.list = append(found.list, yamlFault(err.Error()))
	}
	v := validation{faults: found, root: &root}
	v.config(&c)
	if len(found.list) > 0 {
		return nil, found
	}
	return &c, nil
}

// yamlFault takes the line out of the library's message ("line 7: field x not found in type main.Config").
func yamlFault(text string) fault {
	text = strings.TrimPrefix(text, "yaml: ")
	rest, ok := strings.CutPrefix(text, "line ")
	if !ok {
		return fault{text: text}
	}
	number, message, ok := strings.Cut(rest, ": ")
	line, err := strconv.Atoi(number)
	if !ok || err != nil {
		return fault{text: text}
	}
	if field, _, ok := strings.Cut(message, " not found in type"); ok {
		message = "unknown " + field + "; docs/configuration.md has the fields"
	}
	return fault{line: line, text: message}
}

// lineOf finds where a path of keys and indexes stands, or the nearest thing above it that exists.
func lineOf(root *yaml.Node, path ...any) int {
	node := root
	if node.Kind == yaml.DocumentNode && len(node.Content) > 0 {
		node = node.Content[0]
	}
	line := node.Line
	for _, step := range path {
		next, at := child(node, step)
		if next == nil {
			return line
		}
		node, line = next, at
	}
	return line
}

func child(node *yaml.Node, step any) (*yaml.Node, int) {
	switch key := step.(type) {
	case string:
		for i := 0; node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				return node.Content[i+1], node.Content[i].Line
			}
		}
	case int:
		if node.Kind == yaml.SequenceNode && key < len(node.Content) {
			return node.Content[key], node.Content[key].Line
		}
	}
	return nil, 0
}
