package audit

import (
	"bytes"
	"testing"
)

// duringWrites calls a function before each write.
type duringWrites struct {
	bytes.Buffer
	do func()
}

func (w *duringWrites) Write(b []byte) (int, error) {
	w.do()
	return w.Buffer.Write(b)
}

// TestExportHoldsNoConnection while it writes: whoever reads it slowly takes none away from a release.
func TestExportHoldsNoConnection(t *testing.T) {
	r := newRig(t)
	l := r.log()
	stop := r.start(l)
	r.fill(l, 2*exportEntries+10)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var writes int
	out := duringWrites{do: func() {
		writes++
		if n := r.db.Stat().AcquiredConns(); n != 0 {
			t.Errorf("write %d: the export holds %d connections", writes, n)
		}
	}}
	if err := l.Export(r.context(), &out); err != nil {
		t.Fatal(err)
	}
	if writes < 3 {
		t.Errorf("%d writes show nothing", writes)
	}
	if _, err := l.verify.VerifyExport(&out.Buffer, nil); err != nil {
		t.Error(err)
	}
}

// TestExportOfAGrowingLog is that of the log as it was when the export began: later entries, heads and tiles are left out.
func TestExportOfAGrowingLog(t *testing.T) {
	r := newRig(t)
	l := r.running()
	r.fill(l, tileWidth+10)
	before := r.head(l)
	grown := false
	out := duringWrites{do: func() {
		if !grown {
			grown = true
			r.fill(l, tileWidth)
		}
	}}
	if err := l.Export(r.context(), &out); err != nil {
		t.Fatal(err)
	}
	sum, err := l.verify.VerifyExport(&out.Buffer, nil)
	if err != nil || sum.Checkpoint.Size != before.Size {
		t.Errorf("an export begun at %d entries: %+v, %v", before.Size, sum, err)
	}
	r.intact(l)
}
