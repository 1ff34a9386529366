"""A training run that can stop and go on: optimiser, moving average, rate, log."""
import copy, json, os, time

import torch


class Run:
    """`networks` by name are trained for `steps` in all, those of earlier runs included; the rate falls to nothing in the last quarter."""

    def __init__(self, path, networks, rate, steps, decay=0.999, weight_decay=0.01):
        self.path, self.networks, self.rate, self.steps, self.decay = path, networks, rate, steps, decay
        self.average = {name: copy.deepcopy(net).eval().requires_grad_(False) for name, net in networks.items()}
        self.parameters = [p for net in networks.values() for p in net.parameters()]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=weight_decay, betas=(0.9, 0.99))
        self.step, self.seconds, self.loss = 0, 0.0, None
        if os.path.exists(path):
            saved = torch.load(path, weights_only=True)
            self.step, self.seconds, self.loss = saved["step"], saved["seconds"], saved["loss"]
            self.optimiser.load_state_dict(saved["optimiser"])
            for name in networks:
                networks[name].load_state_dict(saved[name])
                self.average[name].load_state_dict(saved[f"average {name}"])
        self.began, self.saved = time.time() - self.seconds, time.time()

    def goes_on(self):
        self.seconds = time.time() - self.began
        if time.time() - self.saved > 240:
            self.save()
        return self.step < self.steps

    def update(self, loss):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        falling = min(1.0, 4 * (1 - self.step / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * min(1.0, (self.step + 1) / 300) * max(falling, 0.01)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        # A short memory at first, or the average remembers the first weights for long.
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, net in self.networks.items():
                for mean, p in zip(self.average[name].parameters(), net.parameters()):
                    mean.lerp_(p, 1 - keep)
        self.loss = loss.item() if self.loss is None else self.loss + 0.01 * (loss.item() - self.loss)

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
