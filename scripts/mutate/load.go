package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed switch.txt
var switchSource string

var generated = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// program is one package with its mutants in it.
type program struct {
	path, dir, name string
	files           []*source
	mutants         []mutant
}

type source struct {
	path    string
	text    []byte
	mutants []mutant
}

// load reads a package and finds its mutants.
func load(ctx context.Context, path, tags string) (*program, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-export", "-deps", "-tags", tags, "-json=ImportPath,Export,Dir,Name,GoFiles,Standard,DepOnly", path, "os", "strconv", "syscall") // what switch.txt needs
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", path, err)
	}
	type entry struct {
		ImportPath, Export, Dir, Name string
		GoFiles                       []string
		Standard, DepOnly             bool
	}
	exports := map[string]string{}
	var target entry
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var e entry
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("listing %s: %w", path, err)
		}
		if exports[e.ImportPath] = e.Export; !e.DepOnly && !e.Standard {
			target = e
		}
	}
	p := &program{path: target.ImportPath, dir: target.Dir, name: target.Name}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	for _, name := range target.GoFiles {
		s := &source{path: filepath.Join(p.dir, name)}
		if s.text, err = os.ReadFile(s.path); err != nil {
			return nil, fmt.Errorf("reading package: %w", err)
		}
		p.files = append(p.files, s)
	}
	if err := p.find(fset, imports); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *program) find(fset *token.FileSet, imports types.Importer) error {
	var files []*ast.File
	for _, s := range p.files {
		file, err := parser.ParseFile(fset, s.path, s.text, parser.SkipObjectResolution)
		if err != nil {
			return fmt.Errorf("parsing package: %w", err)
		}
		files = append(files, file)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}}
	if _, err := (&types.Config{Importer: imports}).Check(p.path, fset, files, info); err != nil {
		return fmt.Errorf("checking package: %w", err)
	}
	next := 0
	for i, file := range files {
		if generated.Match(p.files[i].text) {
			continue
		}
		f := finder{fset: fset, info: info, source: p.files[i].text, next: &next}
		ast.Walk(&f, file)
		p.files[i].mutants = f.mutants
		p.mutants = append(p.mutants, f.mutants...)
	}
	return nil
}

// switches is the file that goes into the package beside the woven ones.
func (p *program) switches() string {
	out := strings.Replace(switchSource, "PACKAGE", p.name, 1)
	for op, swap := range swaps {
		kinds, count := "T mutantInteger", "T"
		if op == token.SHL || op == token.SHR {
			kinds, count = "T, S mutantInteger", "S"
		}
		out += fmt.Sprintf("\nfunc %s[%s](k int, a T, b %s) T {\n\tif mutantOn(k) {\n\t\treturn a %s b\n\t}\n\treturn a %s b\n}\n", swap.function, kinds, count, swap.other, op)
	}
	return out
}

// build compiles the package's tests with all mutants in it. The tree is not touched: the compiler reads the woven files
// in place of it.
func (p *program) build(ctx context.Context, dir, tags string) (binary string, err error) {
	replace := map[string]string{}
	put := func(path string, text []byte) error {
		woven := filepath.Join(dir, filepath.Base(path))
		replace[path] = woven
		return os.WriteFile(woven, text, 0o600)
	}
	for _, s := range p.files {
		if err := put(s.path, weave(s.text, s.mutants)); err != nil {
			return "", fmt.Errorf("writing woven package: %w", err)
		}
	}
	if err := put(filepath.Join(p.dir, "zz_mutants.go"), []byte(p.switches())); err != nil {
		return "", fmt.Errorf("writing woven package: %w", err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return "", fmt.Errorf("writing woven package: %w", err)
	}
	binary = filepath.Join(dir, "tests")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-tags", tags, "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, p.path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building woven tests of %s: %w\n%s", p.path, err, out)
	}
	return binary, nil
}
