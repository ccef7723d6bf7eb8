package workspace

import (
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/flow/flowtest"
	"github.com/eosc-siesta/siestad/internal/lab/cloudsim"
)

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
