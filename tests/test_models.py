"Model folders of the time when the method of the DDM2 paper and our own for series had one name"

import numpy as np
import pytest

from mri_diffusion import Denoiser, InputError, Scan
from mri_diffusion.core import read_json, write_json

FEW = dict(r2r=dict(steps=2), ddm2=dict(steps1=2, steps3=2))
FORMS = dict(r2r='series', ddm2='published')


@pytest.fixture(scope='module')
def models(made, tmp_path_factory):
    "A model of each method, and the scan that it learned from"
    d, scan = tmp_path_factory.mktemp('models'), Scan.load(made / 'series.nii.gz')
    for name, steps in FEW.items():
        Denoiser(name, 'tiny', quiet=True, **steps).fit(scan).save(d / name)
    return d, scan


def as_it_was(folder, form):
    "A model folder as version 0.0 wrote it: one name, a form, and the settings of both forms"
    config = read_json(folder / 'config.json')
    every = {k: v for n in FEW for k, v in Denoiser(n, 'tiny').config.items()}
    config['config'] = every | config['config'] | dict(form=form)
    write_json(folder / 'config.json', config | dict(method='ddm2'))


@pytest.mark.parametrize('name', FEW)
def test_a_model_of_the_old_name_is_opened_as_what_it_is(models, name, tmp_path):
    d, scan = models
    new = Denoiser.load(d / name, quiet=True).denoise(scan)
    old = Denoiser.load(d / name, quiet=True).save(tmp_path / 'old')
    as_it_was(old, FORMS[name])
    opened = Denoiser.load(old, quiet=True)
    result = opened.denoise(scan)
    assert opened.method.name == name and np.array_equal(result.denoised.data, new.denoised.data)
    said = f'form {FORMS[name]}; that method is now called {name}'
    assert said in result.meta['notes'][0]
    assert not any('now called' in n for n in new.meta['notes'])


def test_it_is_refused_under_its_old_name(models, tmp_path):
    d, _ = models
    old = Denoiser.load(d / 'r2r', quiet=True).save(tmp_path / 'old')
    as_it_was(old, 'series')
    with pytest.raises(InputError, match='holds a model of r2r, not of ddm2'):
        Denoiser.load(old, 'ddm2')


def test_a_command_opens_it_too(models, made, cli, tmp_path):
    d, _ = models
    old = Denoiser.load(d / 'r2r', quiet=True).save(tmp_path / 'old')
    as_it_was(old, 'series')
    got = cli('denoise', made / 'series.nii.gz', tmp_path / 'out.nii.gz', '--model', old)
    assert got.code == 0 and 'is now called r2r' in got.err and ', r2r, ' in got.out
