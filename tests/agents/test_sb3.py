"""Each zip is made by Stable-Baselines3 itself, and what we read from it must act as SB3 does."""

import base64
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from rltool.agents.evaluation import evaluate
from rltool.agents.sb3 import load_sb3
from rltool.errors import UserError

VECTOR = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (2, 36, 40), np.uint8)
BOX = gym.spaces.Box(np.array([-1, -2.5], np.float32), np.array([3, 0.1], np.float32))
SMALL = {"n_steps": 8, "batch_size": 8}
DISCRETE = gym.spaces.Discrete(4)


class Env(gym.Env):
    """Noise in given spaces."""

    def __init__(self, observation_space, action_space):
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def build(algorithm, policy, observation_space, action_space, **options):
    """An SB3 model whose every weight is random and counts."""
    model = algorithm(policy, Env(observation_space, action_space), seed=0, device="cpu", **options)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            scale = 2 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def save(model, folder, name="model.zip"):
    model.save(folder / name)
    return folder / name


def observations(space, n=64):
    """A batch of samples; images are of every brightness, as noise alone looks all the same to a network."""
    space.seed(0)
    batch = np.stack([space.sample() for _ in range(n)])
    if batch.ndim == 4:
        batch = (batch * np.linspace(0, 1, n).reshape(n, 1, 1, 1)).astype(space.dtype)
    return batch


def assert_acts_like(agent, model):
    batch = observations(agent.observation_space)
    expected, _ = model.predict(batch, deterministic=True)
    actions, state = agent.predict(batch, deterministic=True)
    assert state is None
    assert actions.dtype == agent.action_space.dtype  # SB3 leaves bits as float32
    if batch.ndim < 4:
        assert len(np.unique(expected)) > 1
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    np.testing.assert_allclose(agent.predict(batch[0], deterministic=True)[0], expected[0], atol=1e-5)
    assert all(agent.action_space.contains(action) for action in agent.predict(batch)[0])


ACTOR_CRITICS = {
    "a2c": (A2C, "MlpPolicy", VECTOR, DISCRETE, {}),
    "a2c-box": (A2C, "MlpPolicy", VECTOR, BOX, {}),
    "ppo": (PPO, "MlpPolicy", VECTOR, DISCRETE, SMALL),
    "ppo-box": (PPO, "MlpPolicy", VECTOR, gym.spaces.Box(-1, 1, (2, 2)), SMALL),
    "gsde": (A2C, "MlpPolicy", VECTOR, BOX, {"use_sde": True}),
    "gsde-few-parameters": (
        A2C,
        "MlpPolicy",
        VECTOR,
        BOX,
        {"use_sde": True, "policy_kwargs": {"full_std": False, "use_expln": True}},
    ),
    "relu-other-sizes": (
        PPO,
        "MlpPolicy",
        VECTOR,
        BOX,
        {**SMALL, "policy_kwargs": {"net_arch": {"pi": [8], "vf": [16, 4]}, "activation_fn": nn.ReLU}},
    ),
    "multi-discrete": (A2C, "MlpPolicy", VECTOR, gym.spaces.MultiDiscrete([2, 3, 4]), {}),
    "multi-discrete-even": (PPO, "MlpPolicy", VECTOR, gym.spaces.MultiDiscrete([3, 3]), SMALL),
    "multi-binary": (A2C, "MlpPolicy", VECTOR, gym.spaces.MultiBinary(4), {}),
    "multi-discrete-observations": (A2C, "MlpPolicy", gym.spaces.MultiDiscrete([5, 3, 2]), DISCRETE, {}),
    "multi-binary-observations": (A2C, "MlpPolicy", gym.spaces.MultiBinary([2, 3]), BOX, {}),
    "no-hidden-layers": (A2C, "MlpPolicy", VECTOR, DISCRETE, {"policy_kwargs": {"net_arch": []}}),
    "discrete-observations": (A2C, "MlpPolicy", gym.spaces.Discrete(5), DISCRETE, {}),
    "mlp-on-images": (A2C, "MlpPolicy", IMAGE, DISCRETE, {}),
    "cnn": (A2C, "CnnPolicy", IMAGE, DISCRETE, {}),
    "cnn-box": (PPO, "CnnPolicy", IMAGE, BOX, SMALL),
    "cnn-two-extractors": (A2C, "CnnPolicy", IMAGE, DISCRETE, {"policy_kwargs": {"share_features_extractor": False}}),
    "cnn-hidden-layers": (
        A2C,
        "CnnPolicy",
        IMAGE,
        DISCRETE,
        {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [6]}, "features_extractor_kwargs": {"features_dim": 32}}},
    ),
    "cnn-unscaled": (
        A2C,
        "CnnPolicy",
        gym.spaces.Box(0, 1, (2, 36, 40), np.float32),
        DISCRETE,
        {"policy_kwargs": {"normalize_images": False, "features_extractor_kwargs": {"normalized_image": True}}},
    ),
}


@pytest.mark.parametrize("name", ACTOR_CRITICS)
def test_actor_critics_act_and_judge_like_sb3(name, tmp_path):
    algorithm, policy, observation_space, action_space, options = ACTOR_CRITICS[name]
    model = build(algorithm, policy, observation_space, action_space, **options)
    agent = load_sb3(save(model, tmp_path))
    assert agent.observation_space == observation_space
    assert agent.action_space == action_space
    assert agent.env_id is None
    assert_acts_like(agent, model)

    batch = torch.from_numpy(observations(observation_space))
    actions = torch.from_numpy(observations(action_space)).flatten(1) if action_space.shape else torch.arange(64) % 4
    with torch.no_grad():
        theirs = actions.float() if isinstance(action_space, gym.spaces.MultiBinary) else actions
        values, log_prob, entropy = model.policy.evaluate_actions(batch, theirs)
        distribution, our_values = agent.policy(batch)
    torch.testing.assert_close(our_values, values.flatten(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distribution.log_prob(actions), log_prob, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(distribution.entropy().expand(64), entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(agent.policy.values(batch), our_values)


def test_a_policy_is_described_by_its_config(tmp_path):
    options = {"policy_kwargs": {"net_arch": [16, 8], "activation_fn": nn.ELU}}
    agent = load_sb3(save(build(A2C, "MlpPolicy", VECTOR, BOX, use_sde=True, **options), tmp_path))
    assert agent.config.hidden_sizes == (16, 8)
    assert (agent.config.activation, agent.config.action_std, agent.config.shared) == ("elu", "gsde", False)
    assert agent.notes == []


def test_training_can_go_on(tmp_path):
    policy = load_sb3(save(build(A2C, "MlpPolicy", VECTOR, DISCRETE), tmp_path)).policy
    distribution, values = policy(torch.zeros(2, 3))
    (distribution.log_prob(torch.tensor([0, 1])).sum() + values.sum()).backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize(
    ("algorithm", "policy", "observation_space", "action_space", "options"),
    [
        (DQN, "MlpPolicy", VECTOR, DISCRETE, {"policy_kwargs": {"net_arch": [16, 8]}}),
        (DQN, "CnnPolicy", IMAGE, DISCRETE, {}),
        (SAC, "MlpPolicy", VECTOR, BOX, {"policy_kwargs": {"net_arch": [16, 8]}}),
        (SAC, "MlpPolicy", VECTOR, BOX, {"use_sde": True, "policy_kwargs": {"net_arch": {"pi": [16], "qf": [8]}}}),
        (SAC, "CnnPolicy", IMAGE, BOX, {"policy_kwargs": {"net_arch": [8]}}),
        (TD3, "MlpPolicy", VECTOR, BOX, {"policy_kwargs": {"net_arch": [16, 8], "activation_fn": nn.Tanh}}),
        (DDPG, "MlpPolicy", VECTOR, BOX, {"policy_kwargs": {"net_arch": [16]}}),
    ],
    ids=["dqn", "dqn-cnn", "sac", "sac-gsde", "sac-cnn", "td3", "ddpg"],
)
def test_off_policy_agents_act_like_sb3(algorithm, policy, observation_space, action_space, options, tmp_path):
    model = build(algorithm, policy, observation_space, action_space, buffer_size=1, **options)
    assert_acts_like(load_sb3(save(model, tmp_path)), model)


def test_the_logits_of_dqn_are_its_action_values(tmp_path):
    model = build(DQN, "MlpPolicy", VECTOR, DISCRETE, buffer_size=1)
    agent = load_sb3(save(model, tmp_path))
    batch = torch.from_numpy(observations(VECTOR))
    with torch.no_grad():
        expected = model.q_net(batch)
        distribution, values = agent.policy(batch)
    torch.testing.assert_close(distribution.logits, expected)
    torch.testing.assert_close(values, expected.max(1).values)
    greedy = agent.predict(batch.numpy(), deterministic=True)[0]
    np.testing.assert_array_equal(agent.predict(batch.numpy())[0], greedy)


@pytest.mark.parametrize("use_sde", [False, True])
def test_the_density_and_the_samples_of_sac(use_sde, tmp_path):
    options = {"policy_kwargs": {"net_arch": [16], "log_std_init": -1.0}}
    model = build(SAC, "MlpPolicy", VECTOR, BOX, buffer_size=1, use_sde=use_sde, **options)
    agent = load_sb3(save(model, tmp_path))
    batch = torch.from_numpy(observations(VECTOR)[:1]).expand(20_000, -1)
    with torch.no_grad():
        if use_sde:
            model.actor.reset_noise(len(batch))
        actions, expected = model.actor.action_log_prob(batch)
        distribution, values = agent.policy(batch)
    assert values.isnan().all()
    low, half = torch.from_numpy(BOX.low), torch.from_numpy(BOX.high - BOX.low) / 2
    log_prob = distribution.log_prob(low + (actions + 1) * half) + half.log().sum()
    inside = actions.abs().amax(1) < 0.99  # SB3 adds 1e-6 inside a logarithm, which shows at the edges
    torch.testing.assert_close(log_prob[inside], expected[inside], atol=0.01, rtol=0.01)
    samples = agent.predict(batch.numpy())[0]
    theirs = (low + (actions + 1) * half).numpy()
    np.testing.assert_allclose(samples.mean(0), theirs.mean(0), atol=0.05)
    np.testing.assert_allclose(samples.std(0), theirs.std(0), atol=0.05)
    assert distribution.entropy().shape == (20_000,)


def test_a_squashed_ppo(tmp_path):
    options = {**SMALL, "use_sde": True, "policy_kwargs": {"squash_output": True}}
    model = build(PPO, "MlpPolicy", VECTOR, BOX, **options)
    assert_acts_like(load_sb3(save(model, tmp_path)), model)


def test_channels_may_come_last(tmp_path):
    agent = load_sb3(save(build(A2C, "CnnPolicy", IMAGE, DISCRETE), tmp_path))
    batch = observations(IMAGE, 8)
    np.testing.assert_array_equal(
        agent.predict(batch.transpose(0, 2, 3, 1), deterministic=True)[0], agent.predict(batch, deterministic=True)[0]
    )


def test_a_trained_agent_plays(tmp_path):
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=256, learning_rate=3e-3, seed=0, device="cpu").learn(4_096)
    agent = load_sb3(save(model, tmp_path))
    assert evaluate(agent, "CartPole-v1", episodes=8).returns == evaluate(model, "CartPole-v1", episodes=8).returns
    assert evaluate(agent, "CartPole-v1", episodes=8).mean_return > 60


# Files of other versions


def rewrite(path, data=lambda data: None, weights=lambda weights: weights):
    """Change the members of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    changed = json.loads(members["data"])
    data(changed)
    tensors = weights(torch.load(io.BytesIO(members["policy.pth"]), weights_only=True))
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    members |= {"data": json.dumps(changed).encode(), "policy.pth": buffer.getvalue()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_layers_shared_as_before_version_2(tmp_path):
    model = build(A2C, "MlpPolicy", VECTOR, DISCRETE, policy_kwargs={"net_arch": [8, 8]})

    def share(weights):
        renamed = OrderedDict()
        for name, tensor in weights.items():
            name = name.replace("mlp_extractor.policy_net.0", "mlp_extractor.shared_net.0")
            name = name.replace("mlp_extractor.policy_net.2", "mlp_extractor.policy_net.0")
            name = name.replace("mlp_extractor.value_net.2", "mlp_extractor.value_net.0")
            renamed[name] = tensor
        return renamed

    agent = load_sb3(rewrite(save(model, tmp_path), weights=share))
    assert "a copy of its own" in agent.notes[0]
    assert_acts_like(agent, model)
    with torch.no_grad():
        model.policy.mlp_extractor.value_net[0].load_state_dict(model.policy.mlp_extractor.policy_net[0].state_dict())
        batch = torch.from_numpy(observations(VECTOR))
        torch.testing.assert_close(agent.policy.values(batch), model.policy.predict_values(batch).flatten())


def test_all_layers_shared(tmp_path):
    def share(weights):
        return {
            name.replace("policy_net", "shared_net"): tensor
            for name, tensor in weights.items()
            if not name.startswith("mlp_extractor.value_net")
        }

    model = build(A2C, "MlpPolicy", VECTOR, DISCRETE)
    agent = load_sb3(rewrite(save(model, tmp_path), weights=share))
    assert agent.config.shared
    assert agent.policy.value_backbone is None
    assert_acts_like(agent, model)


def test_spaces_of_the_old_gym(tmp_path):
    def age(data):
        for name in ("observation_space", "action_space"):
            space = data[name]
            space[":type:"] = space[":type:"].replace("gymnasium", "gym")
            space["shape"] = space.pop("_shape")
            space.pop("start", None)
            space[":serialized:"] = "of a class that is gone"

    model = build(A2C, "MlpPolicy", VECTOR, DISCRETE)
    agent = load_sb3(rewrite(save(model, tmp_path), age))
    assert (agent.observation_space, agent.action_space) == (VECTOR, DISCRETE)
    assert_acts_like(agent, model)


def test_qr_dqn_is_greedy_in_the_mean_of_its_quantiles(tmp_path):
    model = build(DQN, "MlpPolicy", VECTOR, DISCRETE, buffer_size=1, policy_kwargs={"net_arch": [8]})
    offsets = torch.randn(5, 4, 1)
    offsets -= offsets.mean(0)

    def quantiles(weights):
        renamed = {name.replace("q_net", "quantile_net"): tensor for name, tensor in weights.items()}
        for kind, shape in (("weight", (20, 8)), ("bias", (20,))):
            name = f"quantile_net.quantile_net.2.{kind}"
            renamed[name] = (renamed[name].reshape(1, 4, -1) + offsets).reshape(shape)
        return renamed

    def move(data):
        data["policy_class"]["__module__"] = "sb3_contrib.qrdqn.policies"

    assert_acts_like(load_sb3(rewrite(save(model, tmp_path), move, quantiles)), model)


def test_bounds_that_numpy_cut_off(tmp_path):
    low = np.linspace(-1, 0, 1_100, dtype=np.float32)
    space = gym.spaces.Box(low, low + 2)
    agent = load_sb3(save(build(A2C, "MlpPolicy", space, DISCRETE), tmp_path))
    assert agent.observation_space == gym.spaces.Box(-np.inf, np.inf, (1_100,))


# VecNormalize


@pytest.fixture
def normalized(tmp_path):
    """A model, its zip in a folder of the zoo's layout, and its VecNormalize, not saved yet."""
    folder = tmp_path / "Env-v0_1"
    folder.mkdir()
    model = build(A2C, "MlpPolicy", VECTOR, BOX)
    normalizer = VecNormalize(DummyVecEnv([lambda: Env(VECTOR, BOX)]), clip_obs=1.5, epsilon=1e-3)
    normalizer.obs_rms.update(np.random.default_rng(0).normal([0, 3, -20], [1, 0.01, 10], (50, 3)))
    return model, save(model, folder, "Env-v0.zip"), normalizer


def assert_normalizes(agent, model, normalizer):
    batch = np.random.default_rng(1).normal([0, 3, -20], [1, 0.02, 20], (64, 3)).astype(np.float32)
    expected = model.predict(normalizer.normalize_obs(batch), deterministic=True)[0]
    np.testing.assert_allclose(agent.predict(batch, deterministic=True)[0], expected, atol=1e-4)
    norm = agent.policy.normalizer
    np.testing.assert_allclose(norm.mean, normalizer.obs_rms.mean)
    np.testing.assert_allclose(norm.var, normalizer.obs_rms.var)
    assert (norm.count, norm.clip, norm.epsilon) == (normalizer.obs_rms.count, 1.5, 1e-3)
    assert agent.config.normalize_observations


@pytest.mark.parametrize("place", [".", "Env-v0"])
def test_statistics_beside_the_zip_are_found(place, normalized):
    model, path, normalizer = normalized
    (path.parent / place).mkdir(exist_ok=True)
    statistics = path.parent / place / "vecnormalize.pkl"
    normalizer.save(statistics)
    for name in ("Env-v0.zip", "best_model.zip"):
        agent = load_sb3(path.rename(path.with_name(name)))
        path = path.with_name(name)
        assert_normalizes(agent, model, normalizer)
        assert agent.notes == [f"observations are normalized, as {statistics} says"]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("numpy_1", [False, True])
def test_statistics_of_any_pickle_protocol_and_numpy(protocol, numpy_1, normalized, tmp_path):
    model, path, normalizer = normalized
    content = pickle.dumps(normalizer, protocol=protocol)
    if numpy_1 and protocol == 3:  # names have no length field there
        assert b"numpy._core." in content
        content = content.replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "any.pkl").write_bytes(content)
    assert_normalizes(load_sb3(path, tmp_path / "any.pkl"), model, normalizer)


def test_statistics_that_are_switched_off(normalized, tmp_path):
    model, path, normalizer = normalized
    normalizer.norm_obs = False
    normalizer.save(tmp_path / "off.pkl")
    agent = load_sb3(path, tmp_path / "off.pkl")
    assert "left as they are" in agent.notes[0]
    assert_acts_like(agent, model)


# Nothing is executed


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_payload_in_the_zip_is_never_unpickled(tmp_path):
    trace = tmp_path / "trace"
    code = base64.b64encode(pickle.dumps(Payload(trace))).decode()

    def poison(data):
        for value in data.values():
            if isinstance(value, dict):
                value[":serialized:"] = code

    model = build(A2C, "MlpPolicy", VECTOR, BOX, policy_kwargs={"activation_fn": nn.ReLU})
    assert_acts_like(load_sb3(rewrite(save(model, tmp_path), poison)), model)
    assert not trace.exists()
    pickle.loads(base64.b64decode(code)).close()
    assert trace.exists()  # the payload was a real one


def test_a_payload_among_the_weights_is_refused(tmp_path):
    trace = tmp_path / "trace"
    path = save(build(A2C, "MlpPolicy", VECTOR, BOX), tmp_path)
    rewrite(path, weights=lambda weights: {**weights, "more": Payload(trace)})
    with pytest.raises(UserError, match="damaged, or holds more than weights"):
        load_sb3(path)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_in_the_statistics_is_never_executed(protocol, normalized, tmp_path):
    model, path, normalizer = normalized
    trace = tmp_path / "trace"
    normalizer.extra = [Payload(trace), {"deeper": Payload(trace)}]
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(normalizer, protocol=protocol))
    if protocol >= 3:
        assert_normalizes(load_sb3(path, tmp_path / "evil.pkl"), model, normalizer)
    else:  # VecNormalize never wrote these
        with pytest.raises(UserError, match="no observation statistics"):
            load_sb3(path, tmp_path / "evil.pkl")
    normalizer.obs_rms.mean = Payload(trace)
    (tmp_path / "worse.pkl").write_bytes(pickle.dumps(normalizer, protocol=protocol))
    with pytest.raises(UserError, match="no observation statistics"):
        load_sb3(path, tmp_path / "worse.pkl")
    assert not trace.exists()


def test_stable_baselines3_is_not_imported(tmp_path):
    path = save(build(A2C, "MlpPolicy", VECTOR, BOX), tmp_path)
    code = (
        "import sys; from rltool.agents.loading import load_agent; load_agent(sys.argv[1]); "
        "assert 'stable_baselines3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True)


# What cannot be read


class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 3)

    def forward(self, observations):
        return 2 * observations


def member(path, name, content):
    """Replace one member of a zip, or (None) leave it out."""
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w") as archive:
        for n, content in members.items():
            if content is not None:
                archive.writestr(n, content)


def module(name):
    return lambda data: data["policy_class"].update(__module__=name)


@pytest.fixture
def path(tmp_path):
    return save(build(A2C, "MlpPolicy", VECTOR, BOX), tmp_path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"there is no file .*nothing\.zip"):
        load_sb3(tmp_path / "nothing.zip")


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_no_zip(content, path):
    path.write_bytes(path.read_bytes()[:3_000] if content is None else content)
    with pytest.raises(UserError, match="is no zip file, or it is damaged"):
        load_sb3(path)


def test_a_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"policy_class")] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="is no zip file, or it is damaged"):
        load_sb3(path)


@pytest.mark.parametrize("name", ["data", "policy.pth"])
def test_another_zip(name, path):
    member(path, name, None)
    with pytest.raises(UserError, match="holds no Stable-Baselines3 agent"):
        load_sb3(path)


@pytest.mark.parametrize("name", ["data", "policy.pth"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\x80\x02."])
def test_damaged_members(name, content, path):
    member(path, name, content)
    with pytest.raises(UserError, match="is damaged"):
        load_sb3(path)


@pytest.mark.parametrize(
    "name", ["sb3_contrib.ars.policies", "sb3_contrib.common.recurrent.policies", "__main__", "my.policies"]
)
def test_other_policies(name, path):
    with pytest.raises(UserError, match=rf"a policy from {name}, which cannot be read; what can is the MlpPolicy"):
        load_sb3(rewrite(path, module(name)))


@pytest.mark.parametrize(
    ("policy", "spaces", "match"),
    [
        ("MultiInputPolicy", (gym.spaces.Dict({"a": VECTOR}), BOX), "a Dict space, and only Box, Discrete"),
        ("MlpPolicy", (VECTOR, gym.spaces.MultiDiscrete([2] * 1_001)), "does not say how large each is"),
    ],
)
def test_other_spaces(policy, spaces, match, tmp_path):
    with pytest.raises(UserError, match=match):
        load_sb3(save(build(A2C, policy, *spaces), tmp_path))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"activation_fn": nn.Hardswish}, "uses the activation .*Hardswish.*only tanh, relu"),
        ({"features_extractor_class": OwnExtractor}, "a features extractor of its own, .*OwnExtractor"),
    ],
)
def test_other_networks(options, match, tmp_path):
    with pytest.raises(UserError, match=match):
        load_sb3(save(build(A2C, "MlpPolicy", VECTOR, BOX, policy_kwargs=options), tmp_path))


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (lambda w: {**w, "mlp_extractor.policy_net.1.weight": torch.ones(64)}, "are not those of a policy from"),
        (lambda w: {**w, "lstm_actor.weight": torch.ones(64)}, "lstm_actor.weight is unknown"),
        (lambda w: {n: t for n, t in w.items() if n != "action_net.bias"}, "linear.bias"),
        (lambda w: {n: t for n, t in w.items() if n != "log_std"}, "log_std"),
        (lambda w: {**w, "action_net.weight": torch.ones(3, 64)}, "size mismatch"),
        (lambda w: {}, "are not those of a policy from"),
    ],
)
def test_weights_that_do_not_fit(weights, match, path):
    with pytest.raises(UserError, match=match):
        load_sb3(rewrite(path, weights=weights))


def test_another_algorithms_weights(path):
    for name in ("stable_baselines3.dqn.policies", "stable_baselines3.sac.policies", "stable_baselines3.td3.policies"):
        with pytest.raises(UserError, match="are not those of a policy from"):
            load_sb3(rewrite(path, module(name)))


def test_statistics_that_do_not_fit(path, tmp_path):
    other = VecNormalize(DummyVecEnv([lambda: Env(gym.spaces.Box(-1, 1, (5,)), BOX)]))
    other.save(tmp_path / "other.pkl")
    with pytest.raises(UserError, match=r"observations of shape \(5,\), the agent's have shape \(3,\)"):
        load_sb3(path, tmp_path / "other.pkl")
    with pytest.raises(UserError, match=r"there is no file .*none\.pkl"):
        load_sb3(path, tmp_path / "none.pkl")
    for content in (b"", b"text", pickle.dumps([1, 2]), pickle.dumps(OrderedDict(obs_rms=1))):
        (tmp_path / "bad.pkl").write_bytes(content)
        with pytest.raises(UserError, match="holds no observation statistics of VecNormalize"):
            load_sb3(path, tmp_path / "bad.pkl")


def test_a_device_that_is_not_there(path):
    with pytest.raises(UserError, match="no device 'nowhere'"):
        load_sb3(path, device="nowhere")
