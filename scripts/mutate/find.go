package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"path/filepath"
	"strconv"
	"strings"
)

// mutant is one small fault of a program. It is compiled in beside the code that it spoils, and one process runs with
// one of them switched on.
type mutant struct {
	id    int
	pos   token.Position
	what  string // "a < b → <="
	fate  string
	edits []edit
}

func (m mutant) String() string {
	return fmt.Sprintf("%-11s %s:%d:%d %s", m.fate, filepath.Base(m.pos.Filename), m.pos.Line, m.pos.Column, m.what)
}

// edit puts text around the bytes from lo to hi, or instead of them.
type edit struct {
	lo, hi         int
	before, behind string
	instead        bool
}

// finder walks a file and collects its mutants.
type finder struct {
	fset    *token.FileSet
	info    *types.Info
	source  []byte
	next    *int
	mutants []mutant
	parents []ast.Node
}

func (f *finder) parent(n int) ast.Node {
	if i := len(f.parents) - 1 - n; i >= 0 {
		return f.parents[i]
	}
	return nil
}

func (f *finder) offset(p token.Pos) int { return f.fset.Position(p).Offset }
func (f *finder) text(n ast.Node) string {
	return string(f.source[f.offset(n.Pos()):f.offset(n.End())])
}
func (f *finder) typeOf(e ast.Expr) types.Type { return f.info.TypeOf(e) }

func (f *finder) add(n ast.Node, at token.Pos, what string, edits func(k int) []edit) {
	*f.next++
	text, _, more := strings.Cut(f.text(n), "\n")
	if len(text) > 90 {
		text, more = text[:90], true
	}
	if more {
		text += "…"
	}
	f.mutants = append(f.mutants, mutant{id: *f.next, pos: f.fset.Position(at), what: text + " → " + what, edits: edits(*f.next)})
}

// around is a mutant that wraps n; # stands for its number.
func (f *finder) around(n ast.Node, what, before, behind string) {
	at := n.Pos()
	if x, ok := n.(*ast.BinaryExpr); ok {
		at = x.OpPos
	}
	f.add(n, at, what, func(k int) []edit {
		id := strconv.Itoa(k)
		return []edit{{lo: f.offset(n.Pos()), hi: f.offset(n.End()), before: strings.ReplaceAll(before, "#", id), behind: strings.ReplaceAll(behind, "#", id)}}
	})
}

// choose is a mutant that takes another boolean expression. Neither is evaluated when the other is taken.
func (f *finder) choose(x *ast.BinaryExpr, op token.Token) {
	a, b := f.text(x.X), f.text(x.Y)
	if strings.ContainsAny(a+b, "\n{") {
		a, b = strings.ReplaceAll(a, "\n", " "), strings.ReplaceAll(b, "\n", " ")
		if strings.Contains(a+b, "//") || strings.Contains(a+b, "func(") {
			return
		}
	}
	f.add(x, x.OpPos, op.String(), func(k int) []edit {
		return []edit{{lo: f.offset(x.Pos()), hi: f.offset(x.End()), before: fmt.Sprintf("(mutantOn(%d) && ((%s) %s (%s)) || !mutantOn(%d) && (", k, a, op, b, k), behind: "))"}}
	})
}

func (f *finder) Visit(n ast.Node) ast.Visitor {
	if n == nil {
		f.parents = f.parents[:len(f.parents)-1]
		return nil
	}
	if d, ok := n.(*ast.GenDecl); ok && (d.Tok == token.CONST || d.Tok == token.IMPORT || d.Tok == token.TYPE) {
		return nil
	}
	switch x := n.(type) {
	case *ast.ArrayType:
		return nil
	case *ast.IfStmt:
		if leaves(x.Body) {
			f.around(x.Cond, "never", "(!mutantOn(#) && (", "))")
		}
	case *ast.CaseClause:
		if s, ok := f.parent(1).(*ast.SwitchStmt); ok && s.Tag == nil {
			for _, e := range x.List {
				f.around(e, "never", "(!mutantOn(#) && (", "))")
			}
		}
	case *ast.ExprStmt, *ast.AssignStmt, *ast.IncDecStmt:
		f.statement(n.(ast.Stmt))
	case ast.Expr:
		if !f.expression(x) {
			return nil
		}
	}
	f.parents = append(f.parents, n)
	return f
}

// leaves tells whether a block ends the function or the round of the loop.
func leaves(b *ast.BlockStmt) bool {
	if len(b.List) == 0 {
		return false
	}
	switch b.List[len(b.List)-1].(type) {
	case *ast.ReturnStmt, *ast.BranchStmt:
		return true
	}
	return false
}

// statement takes away a call, or an assignment to something that is read elsewhere. What is only logged is no behaviour.
func (f *finder) statement(s ast.Stmt) {
	switch p := f.parent(0).(type) {
	case *ast.BlockStmt:
	case *ast.CaseClause:
	case *ast.CommClause:
		if p.Comm == s {
			return
		}
	default:
		return
	}
	switch x := s.(type) {
	case *ast.ExprStmt:
		call, ok := x.X.(*ast.CallExpr)
		if !ok {
			return
		}
		if fun, ok := call.Fun.(*ast.Ident); ok && fun.Name == "panic" {
			return
		}
		if fun, ok := call.Fun.(*ast.SelectorExpr); ok && f.typeOf(fun.X) != nil && strings.HasSuffix(f.typeOf(fun.X).String(), "zap.Logger") {
			return
		}
	case *ast.AssignStmt:
		switch x.Lhs[0].(type) {
		case *ast.SelectorExpr, *ast.IndexExpr:
		default:
			if x.Tok == token.ASSIGN || x.Tok == token.DEFINE {
				return
			}
		}
	}
	f.around(s, "taken away", "if !mutantOn(#) { ", " }")
}

// expression adds the mutants of one expression and tells whether to look into it.
func (f *finder) expression(e ast.Expr) bool {
	tv, ok := f.info.Types[e]
	if ok && tv.Value != nil {
		f.constant(e, tv)
		return false
	}
	if ok && tv.IsType() {
		return false
	}
	switch x := e.(type) {
	case *ast.BinaryExpr:
		f.binary(x)
	case *ast.CallExpr:
		if f.plainBool(x) {
			switch f.parent(0).(type) {
			case *ast.ExprStmt, *ast.DeferStmt, *ast.GoStmt:
			default:
				f.around(x, "not", "((", ") != mutantOn(#))")
			}
		}
	case *ast.Ident, *ast.SelectorExpr:
		if f.plainBool(e) && f.condition(e) {
			f.around(e, "not", "((", ") != mutantOn(#))")
		}
	}
	return true
}

func (f *finder) plainBool(e ast.Expr) bool {
	b, ok := f.typeOf(e).(*types.Basic)
	return ok && b.Info()&types.IsBoolean != 0
}

// condition tells whether e stands where a boolean variable decides something.
func (f *finder) condition(e ast.Expr) bool {
	switch p := f.parent(0).(type) {
	case *ast.UnaryExpr:
		return p.Op == token.NOT
	case *ast.BinaryExpr:
		return p.Op == token.LAND || p.Op == token.LOR
	case *ast.IfStmt:
		return p.Cond == e
	case *ast.ForStmt:
		return p.Cond == e
	}
	return false
}

func (f *finder) binary(x *ast.BinaryExpr) {
	if !f.plainBool(x) {
		f.arithmetic(x)
		return
	}
	boundary := map[token.Token]token.Token{token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR}
	switch x.Op {
	case token.LAND:
		f.choose(x, token.LOR)
	case token.LOR:
		f.choose(x, token.LAND)
	case token.EQL, token.NEQ:
		f.around(x, "not", "((", ") != mutantOn(#))")
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		f.around(x, "not", "((", ") != mutantOn(#))")
		f.choose(x, boundary[x.Op])
	}
}

// swaps are other operators of arithmetic, and the function of the woven package that chooses between the two.
var swaps = map[token.Token]struct{ function, other string }{
	token.ADD: {"mutantAdd", "-"}, token.SUB: {"mutantSub", "+"}, token.MUL: {"mutantMul", "/"}, token.QUO: {"mutantQuo", "*"}, token.REM: {"mutantRem", "*"},
	token.AND: {"mutantAnd", "|"}, token.OR: {"mutantOr", "&"}, token.XOR: {"mutantXor", "&"}, token.SHL: {"mutantShl", ">>"}, token.SHR: {"mutantShr", "<<"},
}

func (f *finder) arithmetic(x *ast.BinaryExpr) {
	b, ok := f.typeOf(x).Underlying().(*types.Basic)
	swap, known := swaps[x.Op]
	if !ok || b.Info()&types.IsInteger == 0 || !known {
		return
	}
	f.add(x, x.OpPos, swap.other, func(k int) []edit {
		op := f.offset(x.OpPos)
		return []edit{
			{lo: f.offset(x.Pos()), hi: f.offset(x.End()), before: fmt.Sprintf("%s(%d, ", swap.function, k), behind: ")"},
			{lo: op, hi: op + len(x.Op.String()), before: ",", instead: true},
		}
	})
}

// constant spoils a constant by one, or flips a boolean. Named kinds (durations, the checks) are left alone: a
// nanosecond more is no fault that a test should look for.
func (f *finder) constant(e ast.Expr, tv types.TypeAndValue) {
	b, ok := tv.Type.(*types.Basic)
	if !ok {
		return
	}
	switch p := f.parent(0).(type) {
	case *ast.KeyValueExpr:
		if lit, ok := f.parent(1).(*ast.CompositeLit); ok && p.Key == e {
			if _, isMap := f.typeOf(lit).Underlying().(*types.Map); !isMap {
				return
			}
		}
	case *ast.CallExpr: // the room that make is asked for is no behaviour
		if fun, ok := p.Fun.(*ast.Ident); ok && fun.Name == "make" && p.Args[len(p.Args)-1] == e {
			if _, slice := f.typeOf(p).Underlying().(*types.Slice); !slice || len(p.Args) == 3 {
				return
			}
		}
	}
	switch {
	case b.Info()&types.IsBoolean != 0:
		f.around(e, "not", "((", ") != mutantOn(#))")
	case b.Info()&types.IsInteger != 0 && tv.Value.Kind() == constant.Int:
		name := types.Default(b).String()
		if fits(tv.Value, b, 1) {
			f.around(e, "+1", "mutantMore(#, "+name+"(", "))")
		}
		if fits(tv.Value, b, -1) {
			f.around(e, "-1", "mutantLess(#, "+name+"(", "))")
		}
	}
}

// fits tells whether the constant by its side is of the type too.
func fits(v constant.Value, b *types.Basic, by int64) bool {
	if b.Info()&types.IsUnsigned == 0 {
		return true
	}
	return constant.Sign(constant.BinaryOp(v, token.ADD, constant.MakeInt64(by))) >= 0
}
