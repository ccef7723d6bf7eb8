package workspace

import (
	"net/http"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
)

// TestCreationOutwaitsARemoval: one that waits for a removal does not give up before it may adopt what that leaves.
func TestCreationOutwaitsARemoval(t *testing.T) {
	s := &Service{}
	step := func(f flow.Flow[run]) flow.Step[run] {
		i := slices.IndexFunc(f.Steps, func(s flow.Step[run]) bool { return s.Name == "images" })
		return f.Steps[i]
	}
	use, removal := step(s.createFlow()), step(s.deleteFlow())
	if use.Deadline < removal.Deadline+flow.DefaultAttempt+use.Attempt {
		t.Errorf("a creation waits for %s, a removal may take %s", use.Deadline, removal.Deadline)
	}
}

// TestImageThatCannotBeRemovedIsUsedAgain: a site that will not delete an image parks a deletion. Until then another
// creation waits, and is told for what; afterwards it adopts the image, and the deletion leaves it alone.
func TestImageThatCannotBeRemovedIsUsedAgain(t *testing.T) {
	ctx, r := flowtest.Context(t), newRig(t).impatient(Times{Delete: 2 * time.Second})
	a, op := r.create(ctx, r.svc)
	r.await(ctx, op, flow.StateSucceeded)
	yield := r.cloud.Inject(cloudsim.Fault{Service: "image", Method: http.MethodDelete, Path: regexp.MustCompile(`/images/`), Status: http.StatusForbidden})
	remove := r.begin(ctx, r.svc, r.svc.Delete, a.ID)
	flowtest.Until(ctx, t, "the deletion to be refused", func() (bool, error) {
		s, err := r.svc.Operation(ctx, remove.ID)
		return s.Problem != nil && s.State == Running, err
	})
	b, op := r.create(ctx, r.svc)
	flowtest.Until(ctx, t, "the creation to wait", func() (bool, error) {
		s, err := r.svc.Operation(ctx, op.ID)
		return s.Problem != nil && s.Problem.Code == codeImage && s.Problem.Fix != "", err
	})
	r.await(ctx, remove, flow.StateParked)
	r.await(ctx, op, flow.StateSucceeded)
	var waited float64 // a call that the removal gave up waiting for may have been under way for so long
	if err := r.db.QueryRow(ctx, `SELECT extract(epoch FROM used.at - parked.at)::float8 FROM flow_event used, flow_event parked
		WHERE used.flow = $1 AND used.kind = 'succeeded' AND used.step = 'images' AND parked.flow = $2 AND parked.kind = 'parked'`,
		op.ID, remove.ID).Scan(&waited); err != nil || waited < r.svc.patience().Seconds() {
		t.Errorf("adopted %g s after the removal was parked (%v)", waited, err)
	}
	if n := r.cloud.Created("image"); n != 2 {
		t.Errorf("%d images were made for a kernel and an initrd", n)
	}
	yield()
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, a.ID), flow.StateSucceeded)
	if n := r.cloud.Living("image"); n != 2 {
		t.Errorf("%d images while a workspace uses them", n)
	}
	r.await(ctx, r.begin(ctx, r.svc, r.svc.Delete, b.ID), flow.StateSucceeded)
	if err := r.nothing(); err != nil {
		t.Error(err)
	}
}
