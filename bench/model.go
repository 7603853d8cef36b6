package main

import (
	"bytes"
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/pkid/pkid/bench/model"
)

// carryOn is -model: it works out one installation, or writes scale.md anew.
func (o options) carryOn(w io.Writer) error {
	data, err := model.Read(o.model)
	if err != nil {
		return err
	}
	if o.certificates == 0 {
		return writeScale(o.out, data, w)
	}
	plan, err := data.Plan(model.Load{
		Certificates: float64(o.certificates), Lifetime: 90 * 24 * time.Hour, Years: 1, Revoked: float64(o.revoked),
		Tokens: o.tokens, Verifiers: o.verifiers,
	})
	if err == nil {
		plan.Print(w)
	}
	return err
}

// writeScale writes scale.md into a directory, or to w if none is given.
func writeScale(dir string, data *model.Data, w io.Writer) error {
	var page bytes.Buffer
	if err := data.Document(&page); err != nil {
		return err
	}
	if dir == "" {
		_, err := page.WriteTo(w)
		return err
	}
	return publish(filepath.Join(dir, "scale.md"), page.Bytes())
}

// publish writes a file that anybody may read.
func publish(path string, text []byte) error {
	return os.WriteFile(path, text, 0o644) //nolint:gosec // G306: documentation
}

// recordGrowth checks each law of the model against what was measured.
func (r *report) recordGrowth() {
	for _, l := range model.Laws {
		if len(r.data.Series[l.Series]) == 0 {
			continue // the part did not run
		}
		c, err := r.data.Check(l)
		if err != nil {
			log.Printf("  no check of the model: %v", err)
			continue
		}
		r.recordAt("growth/"+l.Series, c.Off(), int(c.Size), "predicted "+l.Unit.Text(c.Predicted, 3)+", measured "+l.Unit.Text(c.Measured, 3))
	}
}

// keep prints the report, and writes all files into a directory if one is given.
func (r *report) keep(dir string) error {
	r.recordGrowth()
	var page, data bytes.Buffer
	if err := errors.Join(r.write(&page), r.data.Write(&data)); err != nil {
		return err
	}
	if _, err := os.Stdout.Write(page.Bytes()); err != nil || dir == "" {
		return err
	}
	figures := filepath.Join(dir, "benchmarks.json")
	if err := errors.Join(publish(filepath.Join(dir, "benchmarks.md"), page.Bytes()), publish(figures, data.Bytes())); err != nil {
		return err
	}
	kept, err := model.Read(figures) // as they were rounded, so that the page is the same whenever it is made from the file
	if err != nil {
		return err
	}
	return writeScale(dir, kept, nil)
}
