package api_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strings"
	"testing"
)

// wireConstants are package wire's, by name.
func wireConstants(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	each(t, "../wire", func(f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && len(spec.Values) == 1 {
				if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
					out[spec.Names[0].Name] = strings.Trim(lit.Value, `"`)
				}
			}
			return true
		})
	})
	if out["CloseDrain"] != "1012" || out["TokenBad"] != "token_bad" || out["THello"] != "hello" {
		t.Fatalf("package wire was not understood: %v", out)
	}
	return out
}

// named are the names of package wire that a package's sources use.
func named(t *testing.T, dir string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	each(t, dir, func(f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "wire" {
					out[sel.Sel.Name] = true
				}
			}
			return true
		})
	})
	return out
}

func each(t *testing.T, dir string, do func(*ast.File)) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		do(f)
	}
}
