package config

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/configuration.md")

const manual = "../../docs/configuration.md"

// docs/configuration.md is the structs' comments, so it cannot say other than the code.
func TestManual(t *testing.T) {
	got := writeManual(t)
	if *update {
		if err := os.WriteFile(manual, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("%s is not what the comments say: go test ./internal/config -run Manual -update", manual)
	}
}

func writeManual(t *testing.T) string {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	structs := map[string]*ast.StructType{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	var out strings.Builder
	out.WriteString("# Configuration\n\n`DIR/pkid.yaml` of a data directory. Unknown keys are errors. `pkid check-config --data DIR` checks the file and\n" +
		"prints it with every default. Durations are written like `90s`, `5m` or `24h`.\n\n" +
		"This page is made from the comments in `internal/config`.\n\n| key | meaning |\n| --- | --- |\n")
	describe(&out, structs, "Config", "")
	return out.String()
}

func describe(out *strings.Builder, structs map[string]*ast.StructType, name, prefix string) {
	for _, f := range structs[name].Fields.List {
		if f.Tag == nil {
			continue
		}
		key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml"), ",")
		text := strings.Join(strings.Fields(f.Doc.Text()+f.Comment.Text()), " ")
		fmt.Fprintf(out, "| `%s%s` | %s |\n", prefix, key, strings.ReplaceAll(text, "|", `\|`))
		switch typ := f.Type.(type) {
		case *ast.Ident:
			if structs[typ.Name] != nil {
				describe(out, structs, typ.Name, prefix+key+".")
			}
		case *ast.ArrayType:
			if elem, ok := typ.Elt.(*ast.Ident); ok && structs[elem.Name] != nil {
				describe(out, structs, elem.Name, prefix+key+"[].")
			}
		case *ast.MapType:
			if elem, ok := typ.Value.(*ast.Ident); ok && structs[elem.Name] != nil {
				describe(out, structs, elem.Name, prefix+key+".NAME.")
			}
		}
	}
}
