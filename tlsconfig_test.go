package pkid_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// Every tls.Config of the product and its samples, server or client, names the suites that it takes of TLS 1.2, or takes
// TLS 1.3 alone.
func TestH06H07_EveryConfigurationNamesItsSuites(t *testing.T) {
	found := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "testdata" || d.Name() == "node_modules" || path == "bench"): // measurements are no product
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.CompositeLit)
			if !ok || !isSelector(literal.Type, "tls", "Config") {
				return true
			}
			found++
			named := false
			for _, e := range literal.Elts {
				pair, _ := e.(*ast.KeyValueExpr)
				key, _ := pair.Key.(*ast.Ident)
				named = named || key.Name == "CipherSuites" || key.Name == "MinVersion" && isSelector(pair.Value, "tls", "VersionTLS13")
			}
			if !named {
				t.Errorf("%s: set CipherSuites to tokenbind.CipherSuites()", set.Position(literal.Pos()))
			}
			return true
		})
		return nil
	})
	if err != nil || found < 5 {
		t.Errorf("%d configurations, %v", found, err)
	}
}

func isSelector(e ast.Expr, pkg, name string) bool {
	s, ok := e.(*ast.SelectorExpr)
	if !ok || s.Sel.Name != name {
		return false
	}
	of, ok := s.X.(*ast.Ident)
	return ok && of.Name == pkg
}
