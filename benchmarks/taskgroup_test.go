package benchmarks

import (
	"context"
	"testing"

	"example.com/rpcx"
	"github.com/sourcegraph/conc/pool"
	"golang.org/x/sync/errgroup"
)

// BenchmarkTasks starts tasks that do nothing and waits for all of them: what a
// group costs by itself. An operation is one task; a group has 100 of them.
func BenchmarkTasks(b *testing.B) {
	const tasks = 100
	ctx := context.Background()
	run := func(name string, group func(n int) error) {
		b.Run("peer="+name, func(b *testing.B) {
			b.ReportAllocs()
			for left := b.N; left > 0; left -= tasks {
				if err := group(min(left, tasks)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	run("rpcx", func(n int) error {
		g := rpcx.NewTaskGroup[int](ctx, nil)
		for range n {
			g.Go(func(context.Context) (int, error) { return 0, nil })
		}
		return g.Join(ctx)
	})
	run("rpcx-retain", func(n int) error {
		g := rpcx.NewTaskGroup[int](ctx, &rpcx.TaskGroupOptions{Retain: true})
		for range n {
			g.Go(func(context.Context) (int, error) { return 0, nil })
		}
		if err := g.Join(ctx); err != nil {
			return err
		}
		_, err := g.Results()
		return err
	})
	run("errgroup", func(n int) error {
		g, _ := errgroup.WithContext(ctx)
		for range n {
			g.Go(func() error { return nil })
		}
		return g.Wait()
	})
	run("conc", func(n int) error {
		p := pool.New().WithContext(ctx)
		for range n {
			p.Go(func(context.Context) error { return nil })
		}
		return p.Wait()
	})
	run("conc-results", func(n int) error {
		p := pool.NewWithResults[int]().WithContext(ctx)
		for range n {
			p.Go(func(context.Context) (int, error) { return 0, nil })
		}
		_, err := p.Wait()
		return err
	})
}
