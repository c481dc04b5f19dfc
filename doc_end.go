// # Ending a program
//
// When main returns, or calls os.Exit or log.Fatal, all that is unsent or unfinished is
// lost. So the last act of a program is to wait, for a time that its context bounds.
//
// A client waits in [Session.Shutdown], until its calls are answered and all is written.
// Close does not wait, and is for the ways out before:
//
//	defer s.Close()
//	…
//	err := s.Notify(ctx, "log", rpcx.Args{"bye"})
//	return s.Shutdown(ctx) // last in main
//
// A server serves until a signal comes. It finishes what is under way, for at most
// Server.ShutdownTimeout, and returns nil if that went well:
//
//	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
//	context.AfterFunc(ctx, stop) // so that a second Ctrl-C ends the program at once
//	srv := &rpcx.Server{Options: rpcx.Options{Handler: router}, ShutdownTimeout: 10 * time.Second}
//	if err := srv.ListenAndServe(ctx, "tcp://:8888"); err != nil { // or srv.ServeContext(ctx, l)
//		log.Fatal(err)
//	}
//
// Without AfterFunc the second Ctrl-C is swallowed, and who presses it waits for
// ShutdownTimeout: NotifyContext catches signals until stop is called.
//
// Behind package net/http it is websocket.ServeContext(ctx, srv, web, l), which ends the
// web server as well.
//
// A method "stop" must not wait for the session or the server, which waits for its handler.
// One of these is its last line:
//
//	return rpcx.ReplyAndDisconnect("bye"), nil // ends this session
//
// This works in the handler of a notification, too, which has no reply: the exit of LSP,
// say.
//
//	go srv.Shutdown(context.Background()) // ends the server, this reply first
//	return "bye", nil
//
// A Shutdown, or a [Server.Wait], with the handler's own context is recognised, and returns
// [ErrInHandler] at once. With another context it waits for ever, and so does <-s.Done().
// When a method has ended the server, ServeContext and ListenAndServe return
// [ErrServerClosed] as soon as nothing is accepted any more, which main takes for no error,
// and waits for the rest:
//
//	if err := srv.ListenAndServe(ctx, addr); err != nil && err != rpcx.ErrServerClosed {
//		log.Fatal(err)
//	}
//	srv.Wait(context.Background())
//
// A program on standard input and output ends when the other one closes its input: what had
// come in is answered first. It is the session that waits:
//
//	s := rpcx.NewSession(rpcx.Stdio(), opts)
//	<-s.Done()
//
// A program that was started by [Command] ends with its session. Shutdown, or Done after
// Close, waits until it has; without that it may outlive main:
//
//	err := s.Shutdown(ctx)
//	fmt.Println(cmd.ProcessState)
//
// # How it ends
//
// [Session.Close] does not wait for the peer. It may be called any number of times,
// from anywhere, handlers included. Calls that are pending fail, the contexts of handlers
// end, and nothing more is queued. Of what had been queued, Close writes as much as the
// operating system takes at once, nearly always all of it; the rest is written in the
// background, for at most a second. So a Notify before a Close goes out even where the
// program ends with the Close. That is not promised if the peer reads slowly, if more is
// queued than the system takes, on a connection that is not the system's, or when a
// write is under way through a wrapper that shows no connection below it; and nobody
// says that the peer has read it. A call that had been queued may be sent, though it has
// failed.
//
// [Session.Shutdown] ends in order. From then on, requests that come and those
// that wait are answered [CodeServerBusy], "server busy - shutting down", and
// notifications dropped. New calls fail with [ErrClosed], save those that a
// running handler makes with its own context. Shutdown waits for the handlers that
// run, for the calls that are pending, and until all is written; then it closes.
// If its context ends first it closes at once, and returns the context's
// error.
//
// A handler cannot wait for its own end: see Ending a program.
//
// When the connection fails, or the peer breaks the framing, the session ends without
// writing more (but a [CloserWithError], as a WebSocket is, has the rest written first,
// and then tells the peer why).
//
// When the peer has finished sending, and has closed the connection or only its own half
// of it, what it had sent is still handled in order, and answered: so
//
//	printf '…' | server        server < requests > replies        nc -N host port < requests
//
// get their replies, if the last is ready within Limits.HalfClose: ProcessingTimeout for
// the pipes of the system, 5 s for TCP and TLS, so raise it for slow handlers there. The last line of the
// input needs no newline. There is nobody to
// call any more: calls that are pending fail at once, and new ones with [ErrClosed], "the
// peer has finished sending"; notifications go out. The session ends, with io.EOF, when
// nothing is left to handle and to write, when a write fails, when the operating system
// says that the peer is gone, or after Limits.HalfClose. An end within a message is an
// io.ErrUnexpectedEOF, and ends the session at once.
//
// A connection that has no halves, such as a WebSocket or a [Pipe], ends as a whole: what had been
// queued is still written, as by Close, and notifications that the peer had sent before
// are still handled, with a context that has ended; its requests are not, since nobody
// waits for them. So are the notifications before a connection that the peer has reset,
// and those that [Server.OnSession] has held up until then. Those that are dropped when a
// session ends, since it was this side that ended it, or since their time is over, are
// counted in Stats.NotificationsDropped and logged.
//
// A session that ends by [ReplyAndDisconnect], or because of its cost, closes its half
// first, and reads on for up to a second and 256 KiB, so that the peer hears the last
// reply and is not reset.
//
// A network that is gone says nothing. Over TCP (for what is sent: on Linux only) a session
// ends within three times Limits.KeepAlive, with [ErrUnreachable]. A peer that is silent,
// or does not read, is not gone: that is what IdleTimeout and SendTimeout are for.
//
// The first cause of the end is the one that Err reports, from the moment of that cause
// on. When no handler runs any
// more, and reader and writer have returned, the callbacks given to OnClose are
// called, and Done is closed; a server has forgotten the session before. Not before: a handler that does not heed its context
// holds this up, and so does a callback or a logger.
//
// [Server.Shutdown] stops listening and shuts all sessions down;
// [Server.Close] closes them; [Server.StopListening] leaves them to themselves,
// and [Server.Wait] returns when all is over. [Server.ListenAndServe] and
// [Server.ServeContext] shut the server down at the end of their context, within
// Server.ShutdownTimeout, and return nil if that went well.
//
// # Seeing inside
//
// Options.Logger is told of what goes wrong and has no caller to return an error
// to: handlers that fail or panic, notifications whose arguments do not fit, bad
// messages. It is silent by default: set it while you try something out. What a
// peer sent is only in attributes, and never in the message. [Trace] has functions
// that are called when something happens, none of them on the goroutine that
// reads. [Session.Stats] and [Server.Stats] count.
//
// # Testing
//
// [Pipe] joins two sessions in memory. Within a bubble of [testing/synctest],
// timeouts take no time:
//
//	router.Handle("sleep", rpcx.Func(func(seconds int) {
//		time.Sleep(time.Duration(seconds) * time.Second)
//	}))
//	synctest.Test(t, func(t *testing.T) {
//		client, server := rpcx.Pipe(nil, &rpcx.Options{Handler: router})
//		defer func() {
//			client.Close()
//			server.Close()
//			<-client.Done()
//			<-server.Done() // when the handler has returned
//		}()
//		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
//		defer cancel()
//		err := client.Call(ctx, "sleep", rpcx.Args{10}, nil)
//		if !errors.Is(err, context.DeadlineExceeded) {
//			t.Error(err)
//		}
//	})
//
// Make the sessions inside the bubble, and wait there for their end. A handler that still
// sleeps when the test returns makes the bubble panic with "deadlock". Sockets do not work
// in a bubble: time stands still while a goroutine waits for one. The same is true of a
// mutex, so hold none while time passes. Do not call Shutdown(t.Context()) in t.Cleanup:
// that context has ended by then, so Shutdown does not wait for handlers.
//
// RequestTimeout and the peer's ProcessingTimeout are both 30 s. So a call of a handler
// that takes longer ends with [ErrTimeout] or with [CodeServerBusy], whichever comes
// first. A test that wants one of them sets the other limit.
//
// A Pipe has no halves. When one session is closed, the contexts of the other's handlers
// end at once. Over TCP these may go on for Limits.HalfClose, 5 s.
//
// # Task groups and deadlines
//
// They need no session. A [TaskGroup] runs functions concurrently and has their results.
// When the group is joined, no function runs any more. The first answer of three
// servers, of which some may be down:
//
//	g := rpcx.NewTaskGroup[string](ctx, &rpcx.TaskGroupOptions{Wait: rpcx.WaitSuccess})
//	err := g.Do(ctx, func(ctx context.Context) error {
//		for _, addr := range addrs {
//			g.Go(func(ctx context.Context) (string, error) { return fetch(ctx, addr) })
//		}
//		return nil
//	})
//	if err != nil {
//		return err // the cause of ctx
//	}
//	answer, err := g.Result() // if all have failed, err has the error of each
//	down := g.Failures()      // the errors of those that failed before the answer
//
// With a deadline the group is made inside [TimeoutAfter], with the context that this
// passes: see the example TaskGroup, Deadline. Only then does the deadline cancel the tasks, and
// tasks that it has cancelled have the error of the deadline's context. A task that was
// cancelled because another one has succeeded is not among the Failures.
//
// The [WaitPolicy] says whether Join waits for all tasks, for one task, for the first
// success, for the first result that is not nil, or for none, before Join cancels the
// other tasks. Except under WaitSuccess, a task that fails ends the waiting. Errors stay with
// the tasks: [TaskGroup.Err], [TaskGroup.Errs] and [TaskGroup.Failures] return errors of
// tasks, and Do and Join return only the error of the body or the cause of ctx.
// [TaskGroup.All] ranges over the tasks as they finish, [TaskGroup.GoDaemon] starts a task
// that Join does not wait for, and Limit bounds how many tasks run at once.
//
// [TimeoutAfter] and its like run a function under a deadline. They can be
// nested, and the error tells whose deadline it was: one's own is a
// [*TaskTimeout], an outer one's a [TimeoutCancellationError], and an inner one's
// that was not handled an [UncaughtTimeoutError].
//
// # Without a session
//
// A protocol is a plain value, for use over HTTP, a message queue or a file:
//
//	msg, err := rpcx.JSONRPCv2.AppendRequest(nil, rpcx.ID("7"), "echo", rpcx.Args{"hi"}, nil)
//
//	var m rpcx.Message
//	rpcx.JSONRPCv2.Decode(&m, msg, 1000)
//	for _, item := range m.All() {
//		switch item.Kind {
//		case rpcx.KindRequest: // item.Method, item.Params, item.ID
//		case rpcx.KindInvalid: // to be answered with item.Err, under item.ID
//		}
//	}
//
// AppendResult, AppendError and AppendBatch build the answers. [Batch.Append]
// builds a batch.
package rpcx
