"""A training run that can stop and go on: optimiser, moving average, rate, log. On a GPU a step is recorded once and replayed, in bf16 where that is safe."""
import copy, json, os, queue, threading, time

import torch


def arguments(parser, steps, batch, rate):
    """The options that all runs have."""
    parser.add_argument("--steps", type=int, default=steps, help=f"steps in all, those of earlier runs included [{steps}]")
    parser.add_argument("--minutes", type=float, help="end after these in any case")
    parser.add_argument("--batch", type=int, default=batch, help=f"pictures of a step [{batch}]")
    parser.add_argument("--rate", type=float, default=rate, help=f"the highest rate of learning [{rate}]")
    parser.add_argument("--decay", type=float, default=0.999, help="of the moving average [0.999]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def ahead(make, count=8):
    """What `make` gives, call by call, computed ahead by a thread."""
    made = queue.Queue(count)

    def work():
        try:
            while True:
                made.put((make(), None))
        except Exception as error:
            made.put((None, error))
    threading.Thread(target=work, daemon=True).start()
    while True:
        value, error = made.get()
        if error:
            raise error
        yield value


class Run:
    """`networks` by name are trained for `steps` in all, those of earlier runs included, or until `minutes` are over; the rate falls to nothing in
    the last quarter."""

    def __init__(self, path, networks, options, weight_decay=0.01):
        self.path, self.networks, self.options = path, networks, options
        self.average = {name: copy.deepcopy(net).eval().requires_grad_(False) for name, net in networks.items()}
        self.parameters = [p for net in networks.values() for p in net.parameters()]
        self.means = [p for net in self.average.values() for p in net.parameters()]
        self.device = self.parameters[0].device
        self.cuda = self.device.type == "cuda"
        # What a recorded step reads anew each time.
        self.lr, self.fresh = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        self.optimiser = torch.optim.AdamW(self.parameters, lr=self.lr if self.cuda else 0.0, weight_decay=weight_decay, betas=(0.9, 0.99),
                                           capturable=self.cuda, foreach=True)
        self.step, self.seconds, self.loss, self.recorded = 0, 0.0, None, None
        if os.path.exists(path):
            saved = torch.load(path, weights_only=True, map_location=self.device)
            self.step, self.seconds, self.loss = saved["step"], saved["seconds"], saved["loss"]
            self.optimiser.load_state_dict(saved["optimiser"])
            for name in networks:
                networks[name].load_state_dict(saved[name])
                self.average[name].load_state_dict(saved[f"average {name}"])
        self.began, self.saved = time.time() - self.seconds, time.time()

    def progress(self):
        """How much of the run is over, 0 to 1."""
        done = self.step / self.options.steps
        return max(done, self.seconds / (60 * self.options.minutes)) if self.options.minutes else done

    def goes_on(self):
        self.seconds = time.time() - self.began
        if time.time() - self.saved > 240:
            self.save()
        return self.progress() < 1

    def update(self, loss_of, *given):
        """One step down the gradient of `loss_of(*given)`; on a GPU always the same function, of tensors of the same shapes."""
        falling = min(1.0, 4 * (1 - self.progress()))
        self.lr.fill_(self.options.rate * min(1.0, (self.step + 1) / 300) * max(falling, 0.01))
        # A short memory at first, or the average remembers the first weights for long.
        self.fresh.fill_(1 - min(self.options.decay, (1 + self.step) / (10 + self.step)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.lr if self.cuda else self.lr.item()
        loss = self.replay(loss_of, given) if self.cuda else self.whole(loss_of, given)
        self.step += 1
        # To read a loss is to wait for it.
        if not self.cuda or self.step % 50 == 0:
            keep = 0.5 if self.cuda else 0.99
            self.loss = loss.item() if self.loss is None else keep * self.loss + (1 - keep) * loss.item()

    def whole(self, loss_of, given):
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda, cache_enabled=False):
            loss = loss_of(*given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_add_(self.means, torch._foreach_mul(torch._foreach_sub(self.parameters, self.means), self.fresh))
        return loss.detach()

    def replay(self, loss_of, given):
        if self.recorded is None:
            given = [x.clone() for x in given]
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self.whole(loss_of, given)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            self.optimiser.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                loss = self.whole(loss_of, given)
            self.recorded = graph, given, loss
        graph, own, loss = self.recorded
        for mine, x in zip(own, given):
            mine.copy_(x)
        graph.replay()
        return loss

    def log(self, **figures):
        line = {"step": self.step, "minutes": round(self.seconds / 60, 1), "loss": round(self.loss, 5), **figures}
        print(json.dumps(line), flush=True)
        with open(self.path.removesuffix(".pt") + ".log.jsonl", "a") as f:
            f.write(json.dumps(line) + "\n")

    def save(self):
        whole = {"step": self.step, "seconds": self.seconds, "loss": self.loss, "optimiser": self.optimiser.state_dict()}
        for name, net in self.networks.items():
            whole[name], whole[f"average {name}"] = net.state_dict(), self.average[name].state_dict()
        torch.save(whole, self.path + ".tmp")
        os.replace(self.path + ".tmp", self.path)
        self.saved = time.time()
