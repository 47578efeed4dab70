package watch

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/klog/v2"
)

// The terms of the lease: a leader that cannot renew gives up before another
// one takes over, and a leader that ends hands over at once.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// Task is something that the leader alone does. It ends when its context does:
// with the process, or when the lead is lost; and it may then be run again. If
// it ends with an error, this replica gives up the lead and stands again.
type Task func(ctx context.Context) error

// lead stands for election until the context ends, and runs the tasks while
// this replica is the leader.
func (c *Cluster) lead(ctx context.Context, tasks []Task) error {
	log := c.opts.Log.WithName("leader")
	for ctx.Err() == nil {
		started := make(chan context.Context, 1)
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock:            c.lock,
			Name:            c.opts.Lease,
			LeaseDuration:   leaseDuration,
			RenewDeadline:   renewDeadline,
			RetryPeriod:     retryPeriod,
			ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(leading context.Context) { started <- leading },
				OnStoppedLeading: func() {},
				OnNewLeader:      func(identity string) { log.Info("New leader", "identity", identity) },
			},
		})
		if err != nil {
			return err
		}
		// The lease is given back only after the tasks have ended, so its
		// context is not the process's.
		election, resign := context.WithCancel(klog.NewContext(context.WithoutCancel(ctx), log))
		over := make(chan struct{})
		go func() {
			defer close(over)
			elector.Run(election)
		}()
		select {
		case <-ctx.Done():
		case leading := <-started:
			err = runTasks(ctx, leading, tasks)
		}
		resign()
		<-over
		if err != nil {
			log.Error(err, "A leader's task failed; gave up the lead")
			select {
			case <-ctx.Done():
			case <-time.After(retryPeriod): // others may have more luck
			}
		}
	}
	return nil
}

// runTasks runs the tasks until either context ends or one of them fails, and
// returns when all have returned.
func runTasks(ctx, leading context.Context, tasks []Task) error {
	leading, cancel := context.WithCancelCause(leading)
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(nil) })()
	var (
		wg     sync.WaitGroup
		once   sync.Once
		failed error
	)
	for _, task := range tasks {
		wg.Go(func() {
			if err := task(leading); err != nil && leading.Err() == nil {
				once.Do(func() { failed = err })
				cancel(err)
			}
		})
	}
	<-leading.Done()
	wg.Wait()
	return failed
}
